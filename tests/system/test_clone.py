"""A cloned SD card: two agents with one device id, and with one history."""

import shutil

from .processes import finish, pipeline, wait_for, write_config
from .records import count_rows, gaps, outbox_bytes, read_rows, readings

LENGTH = 4
FAST = {"type": "simulated", "rate_hz": 200.0}


def newest(ears, boot):
    """The newest status of one boot, or None."""
    return next((s for s in reversed(ears.statuses()) if s.boot == boot), None)


def test_two_agents_with_one_device_id_stay_connected_and_are_named(
    programs, listen, home, broker, tmp_path
):
    path, clone_home = tmp_path / "records.db", tmp_path / "clone"
    config = write_config(home, broker.url, [pipeline(FAST)])
    broker.kill()
    original = programs.agent(config)
    wait_for(lambda: outbox_bytes(home / "data") > 100_000, "a history")
    original.kill()
    shutil.copytree(home, clone_home)
    broker.start()
    ears = listen(broker)
    collector = programs.collector(broker, path)
    agents = [programs.agent(folder / "agent.yaml") for folder in (home, clone_home)]

    def boots():
        return {status.boot for status in ears.statuses() if status.online}

    wait_for(lambda: len(boots()) == 2, "a status of each")
    one, two = sorted(boots(), key=lambda boot: f"boot {boot}" in agents[1].log)
    for boot, other in ((one, two), (two, one)):
        wait_for(
            lambda boot=boot, other=other: (
                [text.split()[0] for text in newest(ears, boot).conflicts] == [other]
            ),
            "each to name the other",
        )
    many = count_rows(path) + 200
    wait_for(lambda: count_rows(path) > many, "both to go on")
    assert agents[1].terminate() == 0
    wait_for(lambda: not newest(ears, two).online, "the clone's last status")
    wait_for(
        lambda: ears.status().boot == one and not ears.status().conflicts, "the other to be back"
    )
    assert ears.status().online
    assert agents[0].terminate() == 0
    wait_for(lambda: not newest(ears, one).online, "the last status")
    lasts = {boot: newest(ears, boot).outbox.seq_last for boot in (one, two)}
    wait_for(lambda: gaps(read_rows(path), lasts) == [], "every record of both")
    assert finish(collector)["missing"] == 0
    rows = read_rows(path)
    assert len({row.boot for row in rows}) == 3
    for boot in {row.boot for row in rows}:
        numbers = readings(row for row in rows if row.boot == boot)
        assert numbers == list(range(LENGTH, LENGTH + len(numbers)))
    for agent in agents:
        assert agent.log.count("connected to") == 1, "it was thrown out"
