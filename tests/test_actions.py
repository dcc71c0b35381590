"""Actions, and the worker that keeps slow ones out of the pipeline's thread."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from edge_agent.actions import ActionConfig, make_action
from edge_agent.actions.base import Action, Send
from edge_agent.actions.exec import ExecAction, ExecConfig
from edge_agent.actions.log import LogAction, LogConfig
from edge_agent.actions.mqtt import MqttAction, MqttConfig
from edge_agent.actions.worker import ActionWorker
from edge_agent.contract.errors import ActionError, StorageError
from edge_agent.contract.messages import Decision, encode
from edge_agent.testing.conformance import check_action

DEADLINE_S = 20.0


def decision(number: int = 1, **fields: object) -> Decision:
    plain = Decision(
        t=1.5,
        pipeline="p",
        model="1.0.0",
        reading=number,
        label="walk",
        score=0.123456789,
        state="moving",
        fired=True,
    )
    return msgspec.structs.replace(plain, **fields)


def program(text: str, *arguments: str, timeout_s: float = DEADLINE_S) -> ExecAction:
    """An action that runs a Python program."""
    return ExecAction(
        ExecConfig(command=(sys.executable, "-S", "-c", text, *arguments), timeout_s=timeout_s)
    )


def until(holds: Callable[[], bool]) -> None:
    """Poll until it holds; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- log, mqtt -----------------------------------------------------------------------------------


def test_log_writes_one_line_that_says_what_fired(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edge_agent.actions.log"):
        LogAction().fire(decision(7, state="a\nb"))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "p: state 'a\\nb' at reading 7 (label 'walk', score 0.123457, model 1.0.0)"
    )


def test_mqtt_hands_the_decision_to_the_outbox() -> None:
    sent: list[tuple[str, bytes]] = []
    action = MqttAction(
        MqttConfig(topic="home/alarm"), send=lambda topic, payload: sent.append((topic, payload))
    )
    action.fire(decision(3))
    ((topic, payload),) = sent
    assert topic == "home/alarm"
    assert msgspec.json.decode(payload, type=Decision) == decision(3)


@pytest.mark.parametrize(
    ("way", "up", "qos_1", "sent_at_once"),
    [
        ("kept", True, None, False),
        ("confirmed", True, True, True),
        ("at_once", True, False, True),
        ("confirmed", False, True, False),
        ("at_once", False, False, False),
    ],
)
def test_mqtt_sends_at_once_where_it_may_and_can(
    *, way: str, up: bool, qos_1: bool | None, sent_at_once: bool
) -> None:
    outbox: list[tuple[str, bytes]] = []
    line: list[tuple[str, bytes]] = []

    def keep(topic: str, payload: bytes) -> None:
        outbox.append((topic, payload))

    def direct(topic: str, payload: bytes, given: Send | None) -> bool:
        assert qos_1 is not None, "not to be asked"
        assert given is (keep if qos_1 else None)
        if up:
            line.append((topic, payload))
        return up

    config = msgspec.convert({"type": "mqtt", "topic": "t", "send": way}, MqttConfig)
    MqttAction(config, send=keep, direct=direct).fire(decision(3))
    assert [len(line), len(outbox)] == ([1, 0] if sent_at_once else [0, 1])


def test_a_streaming_action_gets_every_decision_and_the_others_those_that_fired() -> None:
    stream, other = Quick(), Quick()
    worker = ActionWorker([stream, other], stream=[stream])
    assert worker.wants_all
    assert not ActionWorker([other]).wants_all
    fired, calm = decision(1), decision(2, fired=False)
    worker.dispatch(fired)
    worker.dispatch(calm)
    assert [[number for _, number in it.fired] for it in (stream, other)] == [[1, 2], [1]]


@pytest.mark.parametrize("topic", ["", "a/+", "#", "x" * 257, "a\0"])
def test_mqtt_refuses_topics_that_cannot_be_published_to(topic: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "mqtt", "topic": topic}, MqttConfig)


# --- exec ----------------------------------------------------------------------------------------


def test_exec_gives_the_decision_and_fills_in_the_arguments(tmp_path: Path) -> None:
    text = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read() + '|'.join(sys.argv[2:]))"
    arguments = ("{label}/{state}", "--score={score}", "{pipeline}", "{other}{", "$HOME;x")
    program(text, str(tmp_path / "out"), *arguments).fire(decision(label="{state}"))
    body, _, rest = (tmp_path / "out").read_text().partition("}{state}/")
    assert msgspec.json.decode(body + "}", type=Decision) == decision(label="{state}")
    assert rest == "moving|--score=0.123457|p|{other}{|$HOME;x"


def test_exec_does_not_mind_a_program_that_takes_no_input() -> None:
    values = tuple(float(number) for number in range(50_000))  # more than a pipe holds
    program("import os; os.close(0)").fire(decision(values=values))
    program("pass").fire(decision(values=values))
    whole = str(len(encode(decision(values=values))))
    text = "import os, sys; os.close(2); sys.exit(len(sys.stdin.read()) != int(sys.argv[1]))"
    program(text, whole).fire(decision(values=values))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys; sys.stderr.write('first\\nthe valve is stuck\\n\\n'); sys.exit(3)", "valve"),
        ("import sys; sys.exit(3)", "exit code 3: nothing on its standard error"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import os; os.write(2, b'\\xff\\xfe ouch'); os._exit(1)", "ouch"),
        ("import sys; sys.stderr.write('x' * 10_000_000 + '\\nend'); sys.exit(1)", "end"),
    ],
)
def test_exec_tells_how_a_program_failed(text: str, says: str) -> None:
    with pytest.raises(ActionError, match=says) as caught:
        program(text).fire(decision())
    assert len(str(caught.value)) < 5000


def test_exec_names_a_program_that_is_not_there(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    for command in ((str(tmp_path / "none"),), (str(plain),), (sys.executable, "a\0b")):
        with pytest.raises(ActionError, match="cannot be started"):
            ExecAction(ExecConfig(command=command)).fire(decision())


def test_exec_kills_a_program_that_is_too_slow_and_its_children(tmp_path: Path) -> None:
    text = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child: open(sys.argv[1], 'w').write(f'{os.getpid()} {child}')\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(ActionError, match="killed after timeout_s = 1 s"):
        program(text, str(tmp_path / "pids"), timeout_s=1.0).fire(decision())
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    until(lambda: all(is_gone(pid) for pid in pids))


def test_exec_kills_what_an_ended_program_left_behind_with_its_standard_error(
    tmp_path: Path,
) -> None:
    text = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child: open(sys.argv[1], 'w').write(str(child)); os._exit(0)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(ActionError, match="killed after"):
        program(text, str(tmp_path / "pid"), timeout_s=1.0).fire(decision())
    until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_exec_leaves_no_descriptor_open_and_no_zombie(tmp_path: Path) -> None:
    text = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); sys.exit({})"
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    for number in range(3):
        program(text.format(0), str(tmp_path / f"good{number}")).fire(decision())
        with pytest.raises(ActionError):
            program(text.format(1), str(tmp_path / f"bad{number}")).fire(decision())
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before
    pids = [path.read_text() for path in tmp_path.iterdir()]
    assert len(pids) == 6
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_exec_ends_at_once_when_it_is_closed(tmp_path: Path) -> None:
    text = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"
    action = program(text, str(tmp_path / "runs"), timeout_s=600)
    failures: list[str] = []

    def fire() -> None:
        try:
            action.fire(decision())
        except ActionError as exc:
            failures.append(str(exc))

    thread = threading.Thread(target=fire)
    thread.start()
    until((tmp_path / "runs").exists)
    action.close()
    thread.join(DEADLINE_S)
    assert "killed by signal 9" in failures[0]
    with pytest.raises(ActionError, match="stopping"):
        action.fire(decision())


def test_exec_runs_in_a_process_group_of_its_own() -> None:
    """So a Ctrl-C at the agent does not reach it, and killing it does not reach the agent."""
    text = "import os, sys; sys.exit(os.getpgid(0) == int(sys.argv[1]))"
    program(text, str(os.getpgid(0))).fire(decision())


@pytest.mark.parametrize(
    "wrong", [{"command": []}, {"command": ["x"], "timeout_s": 0}, {"command": "x y"}]
)
def test_exec_config_refuses_what_cannot_run(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "exec", **wrong}, ExecConfig)


# --- worker --------------------------------------------------------------------------------------


class Quick:
    """Notes the thread and the reading of each decision."""

    blocking: ClassVar[bool] = False

    def __init__(self, error: Exception | None = None) -> None:
        self.fired: list[tuple[str, int]] = []
        self.error = error
        self.closed_n = 0

    def fire(self, decision: Decision) -> None:
        if self.error is not None:
            raise self.error
        self.fired.append((threading.current_thread().name, decision.reading))

    def close(self) -> None:
        self.closed_n += 1


class Slow(Quick):
    """Waits for the gate before each decision; closing opens it, if it is that obedient."""

    blocking: ClassVar[bool] = True

    def __init__(self, *, obedient: bool = True) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.waiting = threading.Event()
        self.obedient = obedient

    def fire(self, decision: Decision) -> None:
        self.waiting.set()
        self.gate.acquire()
        super().fire(decision)

    def close(self) -> None:
        super().close()
        if self.obedient:
            self.gate.release(1000)


def test_worker_runs_quick_actions_in_the_calling_thread_without_one_of_its_own() -> None:
    quick = Quick()
    worker = ActionWorker([quick])
    threads_before = threading.active_count()
    worker.dispatch(decision(1))
    assert quick.fired == [(threading.current_thread().name, 1)]
    assert threading.active_count() == threads_before
    worker.close()
    assert quick.closed_n == 1


@pytest.mark.parametrize("error", [StorageError("disk full"), ZeroDivisionError("a plug-in's")])
def test_worker_counts_failures_and_goes_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    good = Quick()
    worker = ActionWorker([Quick(error), good])
    for number in range(3):
        worker.dispatch(decision(number))
    assert len(good.fired) == 3
    assert worker.counts == {"action_errors": 3, "dropped_actions": 0, "waiting_actions": 0}
    assert str(error) in caplog.text


def test_worker_never_waits_for_a_slow_action_and_drops_the_oldest_when_full() -> None:
    slow, quick = Slow(), Quick()
    worker = ActionWorker([slow, quick], queue_n_max=3)
    worker.dispatch(decision(0))
    assert slow.waiting.wait(DEADLINE_S)
    for number in range(1, 11):
        worker.dispatch(decision(number))
    assert [reading for _, reading in quick.fired] == list(range(11))
    assert slow.fired == []
    assert worker.counts["dropped_actions"] == 7
    slow.gate.release(100)
    worker.close()
    assert [reading for _, reading in slow.fired] == [0, 8, 9, 10]
    assert {thread for thread, _ in slow.fired} == {"actions"}


def test_worker_finishes_what_is_queued_when_it_is_closed() -> None:
    slow = Slow()
    worker = ActionWorker([slow], close_s=DEADLINE_S)
    for number in range(20):
        worker.dispatch(decision(number))
    slow.gate.release(20)
    worker.close()
    assert [reading for _, reading in slow.fired] == list(range(20))
    assert worker.counts == {"action_errors": 0, "dropped_actions": 0, "waiting_actions": 0}


def test_worker_closes_in_bounded_time_and_counts_what_it_gives_up() -> None:
    slow = Slow()
    worker = ActionWorker([slow], close_s=0.05)
    for number in range(5):
        worker.dispatch(decision(number))
    assert slow.waiting.wait(DEADLINE_S)
    worker.close()
    worker.close()
    assert len(slow.fired) + worker.counts["dropped_actions"] == 5
    assert worker.counts["dropped_actions"] >= 3


def test_worker_does_not_hang_on_an_action_that_never_returns() -> None:
    stuck = Slow(obedient=False)
    worker = ActionWorker([stuck], close_s=0.05)
    worker.dispatch(decision(1))
    worker.dispatch(decision(2))
    assert stuck.waiting.wait(DEADLINE_S)
    worker.close()
    assert stuck.fired == []
    assert worker.counts["dropped_actions"] == 1
    stuck.gate.release(2)


def test_worker_with_a_real_program_leaves_nothing_running(tmp_path: Path) -> None:
    text = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    worker = ActionWorker([program(text, str(tmp_path / "pid"), timeout_s=600)], close_s=0.05)
    worker.dispatch(decision(1))
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    worker.close()
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert worker.counts == {"action_errors": 1, "dropped_actions": 0, "waiting_actions": 0}


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LogConfig(), LogAction),
        (MqttConfig(topic="t"), MqttAction),
        (ExecConfig(command=("true",)), ExecAction),
    ],
)
def test_every_action_is_made_from_its_configuration_and_conforms(
    config: ActionConfig, kind: type
) -> None:
    def make() -> Action:
        return make_action(config, send=lambda _topic, _payload: None)

    assert isinstance(make(), kind)
    check_action(make)


def test_the_check_finds_an_action_that_holds_the_pipeline_up() -> None:
    class Sleepy(Quick):
        def fire(self, decision: Decision) -> None:
            threading.Event().wait(0.15)

    with pytest.raises(AssertionError, match="blocking = True"):
        check_action(Sleepy)


def test_the_check_finds_an_action_with_an_error_that_is_not_ours() -> None:
    with pytest.raises(OSError, match="pin"):
        check_action(lambda: Quick(OSError("pin")))
    with pytest.raises(AssertionError, match="what to do"):
        check_action(lambda: Quick(ActionError("")))
    check_action(lambda: Quick(ActionError("turn it on")))


def test_the_check_wants_blocking_to_be_said() -> None:
    class Vague(Quick):
        blocking = None  # type: ignore[assignment]

    with pytest.raises(AssertionError, match="blocking"):
        check_action(Vague)
