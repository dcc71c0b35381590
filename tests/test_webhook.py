"""Decisions as HTTP requests, to a real server on this machine."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_actions import decision
from test_pipeline import Bench, Script, block, model

from edge_agent.actions.webhook import WebhookAction, WebhookConfig
from edge_agent.actions.worker import ActionWorker
from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import encode
from edge_agent.testing.conformance import check_action


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.seen.append((self.path, self.headers["Authorization"], body))
            self.send_response(web.answers.pop(0) if web.answers else 204)
            self.end_headers()

        def log_message(self, *arguments):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as web:
        web.seen, web.answers = [], []
        web.url = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield web
        web.shutdown()
        thread.join()


def test_a_webhook_is_an_action(server) -> None:
    check_action(lambda: WebhookAction(WebhookConfig(url=server.url)))
    assert len(server.seen) == 4


def test_a_token_is_sent_and_a_5xx_is_tried_again(server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    server.answers = [503, 200]
    WebhookAction(WebhookConfig(url=f"{server.url}/a?b=c", token_file=str(token))).fire(decision())
    assert server.seen == [("/a?b=c", "Bearer s3cret", encode(decision()))] * 2


def test_a_token_of_the_environment_is_sent_and_never_told(server, monkeypatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cret")
    server.answers = [200, 403]
    action = WebhookAction(WebhookConfig(url=server.url, token_env="HOOK_TOKEN"))
    action.fire(decision())
    assert server.seen[0][1] == "Bearer s3cret"
    with pytest.raises(ActionError) as caught:
        action.fire(decision())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "two\nlines", ""])
def test_a_token_that_is_none(server, monkeypatch, text) -> None:
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    if text is not None:
        monkeypatch.setenv("HOOK_TOKEN", text)
    with pytest.raises(ActionError, match="HOOK_TOKEN"):
        WebhookAction(WebhookConfig(url=server.url, token_env="HOOK_TOKEN")).fire(decision())
    assert server.seen == []


def test_a_webhook_that_hangs_delays_no_decision() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # it listens and never answers
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        worker = ActionWorker(
            [WebhookAction(WebhookConfig(url=url, timeout_s=60, tries=1))],
            queue_n_max=10,
            close_s=0.0,
        )
        bench = Bench(Script(*[block(0), block(1)] * 50), model=model(length=1))
        bench.on_offer = worker.dispatch
        bench.run()  # a hundred decisions fire; waiting for one request would take a minute
        assert len(bench.offered) == 100
        assert worker.counts["dropped_actions"] >= 100 - 10 - 1
        assert worker.counts["action_errors"] == 0  # the first request still hangs
        worker.close()


def test_a_4xx_is_not_tried_again_and_the_path_is_not_told(server) -> None:
    server.answers = [403]
    with pytest.raises(ActionError, match="answered 403") as caught:
        WebhookAction(WebhookConfig(url=f"{server.url}/hidden")).fire(decision())
    assert len(server.seen) == 1
    assert "hidden" not in str(caught.value)
