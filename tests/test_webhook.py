"""Decisions as HTTP requests, to a real server on this machine."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_actions import decision

from edge_agent.actions.webhook import WebhookAction, WebhookConfig
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


def test_a_4xx_is_not_tried_again_and_the_path_is_not_told(server) -> None:
    server.answers = [403]
    with pytest.raises(ActionError, match="answered 403") as caught:
        WebhookAction(WebhookConfig(url=f"{server.url}/hidden")).fire(decision())
    assert len(server.seen) == 1
    assert "hidden" not in str(caught.value)
