"""Rollouts on disk: every step is here before it is acted on, and stays as history.

Whoever changes a rollout names the version that he has read, so nobody overwrites what he has not
seen. Besides, one controller at a time holds the lease of a rollout: the other one only looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from edge_agent.contract.errors import ConfigError, StorageError
from edge_agent.contract.messages import encode
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.fleet.rollout.database import Database, Work
from edge_agent.fleet.rollout.devices import Member
from edge_agent.fleet.rollout.plan import Plan, State

FORMAT: Final = 1
_TRIES: Final = 20  # of a change that others keep coming before

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS rollout_format (format BIGINT PRIMARY KEY)",
    """CREATE TABLE IF NOT EXISTS rollouts (
        name TEXT PRIMARY KEY, begun_t DOUBLE PRECISION NOT NULL, ended BIGINT NOT NULL,
        plan TEXT NOT NULL, state TEXT NOT NULL, version BIGINT NOT NULL,
        owner TEXT NOT NULL, lease_t DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS rollout_steps (
        name TEXT NOT NULL, version BIGINT NOT NULL, t DOUBLE PRECISION NOT NULL,
        note TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (name, version))""",
    """CREATE TABLE IF NOT EXISTS rollout_devices (
        name TEXT NOT NULL, device TEXT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (name, device))""",
)
_COLUMNS: Final = "SELECT name, begun_t, plan, state, version, owner, lease_t FROM rollouts"


class ConflictError(StorageError):
    """Somebody else has changed the rollout since it was read: read it again."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as it was read.

    Attributes:
        name: what people call it by.
        begun_t: when it was started, in seconds since 1970.
        version: of the row; rises with every change.
        owner: the controller that leads it; empty for none.
        lease_t: until when, in seconds since 1970.
    """

    name: str
    begun_t: float
    plan: Plan
    state: State
    version: int
    owner: str
    lease_t: float


class Entry(msgspec.Struct, frozen=True):
    """One line of the history.

    Attributes:
        t: seconds since 1970.
        note: what happened, for people.
    """

    t: float
    note: str
    state: State


class Rollouts:
    """All rollouts of one fleet. Used by one thread.

    Args:
        database: open; it is closed with this.

    Raises:
        StorageError: not usable, or of a newer format.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.prepare(_SCHEMA)
        with database.transaction() as work:
            work.run("INSERT INTO rollout_format VALUES (?) ON CONFLICT DO NOTHING", (FORMAT,))
            newest = work.rows("SELECT max(format) FROM rollout_format")[0][0]
        if newest > FORMAT:
            raise StorageError(
                f"the rollouts have format {newest}, this version knows {FORMAT}: update edge-fleet"
            )

    def begin(self, plan: Plan, now: float) -> Rollout:
        """Put a new rollout down; a controller opens its first ring.

        Raises:
            ConfigError: the plan contradicts itself, or another one for these devices is not over.
        """
        if plan.fault:
            raise ConfigError(plan.fault)
        with self._database.transaction() as work:
            work.run("UPDATE rollout_format SET format = format")  # one at a time begins
            for other in self._select(work, "WHERE ended = 0"):
                same_devices = plan.to == other.plan.to or SCOPE_ALL in (plan.to, other.plan.to)
                if other.plan.model == plan.model and same_devices:
                    raise ConfigError(
                        f"{other.name} is not over: wait, or edge-fleet rollouts abort {other.name}"
                    )
            name = self._free_name(work, f"{plan.model}-{plan.choice.version}")
            state = State()
            values = (name, now, 0, _text(plan), _text(state), 1, "", 0.0)
            work.run("INSERT INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            _note(work, (name, 1), now, "started", state)
        return self.load(name)

    def load(self, name: str) -> Rollout:
        """Read one.

        Raises:
            ConfigError: there is none of this name.
        """
        with self._database.transaction() as work:
            found = self._select(work, "WHERE name = ?", name)
        if not found:
            raise ConfigError(f"there is no rollout {name}: see edge-fleet rollouts status")
        return found[0]

    def all(self) -> list[Rollout]:
        """All of them, the oldest first."""
        with self._database.transaction() as work:
            return self._select(work, "ORDER BY begun_t, name")

    def open(self) -> list[Rollout]:
        """Those that are not over, the oldest first."""
        with self._database.transaction() as work:
            return self._select(work, "WHERE ended = 0 ORDER BY begun_t, name")

    def save(self, rollout: Rollout, state: State, now: float, note: str) -> Rollout:
        """Put the next state down.

        Raises:
            ConflictError: it is not what was read any more.
        """
        version = rollout.version + 1
        with self._database.transaction() as work:
            changed = work.run(
                "UPDATE rollouts SET state = ?, ended = ?, version = ?"
                " WHERE name = ? AND version = ?",
                (_text(state), int(state.over), version, rollout.name, rollout.version),
            )
            if not changed:
                raise ConflictError(f"{rollout.name} was changed by somebody else: try again")
            _note(work, (rollout.name, version), now, note, state)
        return msgspec.structs.replace(rollout, state=state, version=version)

    def change(self, name: str, rule: Callable[[State], State], now: float, note: str) -> Rollout:
        """Apply a rule to whatever the state is now.

        Raises:
            ConfigError: what the rule raises, or there is none of this name.
            ConflictError: others were faster again and again.
        """
        for _ in range(_TRIES):
            rollout = self.load(name)
            state = rule(rollout.state)
            if state == rollout.state:
                return rollout
            try:
                return self.save(rollout, state, now, note)
            except ConflictError:
                continue
        raise ConflictError(f"{name} is changed by others all the time: try again")

    def lease(self, name: str, owner: str, now: float, seconds: float) -> bool:
        """Take or renew the lead; whether nobody else has it.

        Clocks of several computers that lead rollouts must agree within a few seconds.
        """
        with self._database.transaction() as work:
            changed = work.run(
                "UPDATE rollouts SET owner = ?, lease_t = ?"
                " WHERE name = ? AND (owner = ? OR owner = '' OR lease_t < ?)",
                (owner, now + seconds, name, owner, now),
            )
        return changed == 1

    def release(self, owner: str) -> None:
        """Give every lead back."""
        with self._database.transaction() as work:
            work.run("UPDATE rollouts SET owner = '', lease_t = 0 WHERE owner = ?", (owner,))

    def keep(self, name: str, members: Iterable[Member]) -> None:
        """Put down what devices have said."""
        rows = [(name, member.verdict.device, _text(member)) for member in members]
        if rows:
            with self._database.transaction() as work:
                work.run_each(
                    "INSERT INTO rollout_devices VALUES (?, ?, ?)"
                    " ON CONFLICT (name, device) DO UPDATE SET body = excluded.body",
                    rows,
                )

    def members(self, name: str) -> list[Member]:
        """What devices have said, by device."""
        with self._database.transaction() as work:
            query = "SELECT body FROM rollout_devices WHERE name = ? ORDER BY device"
            return [_read(body, Member) for (body,) in work.rows(query, (name,))]

    def history(self, name: str) -> list[Entry]:
        """Every step, the first one first."""
        with self._database.transaction() as work:
            query = "SELECT t, note, state FROM rollout_steps WHERE name = ? ORDER BY version"
            rows = work.rows(query, (name,))
        return [Entry(t, note, _read(state, State)) for t, note, state in rows]

    def close(self) -> None:
        """Let the database go."""
        self._database.close()

    @staticmethod
    def _select(work: Work, rest: str, *values: str) -> list[Rollout]:
        return [
            Rollout(
                name=name,
                begun_t=begun_t,
                plan=_read(plan, Plan),
                state=_read(state, State),
                version=version,
                owner=owner,
                lease_t=lease_t,
            )
            for name, begun_t, plan, state, version, owner, lease_t in work.rows(
                f"{_COLUMNS} {rest}", values
            )
        ]

    @staticmethod
    def _free_name(work: Work, stem: str) -> str:
        taken = {name for (name,) in work.rows("SELECT name FROM rollouts")}
        names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 2))]
        return next(name for name in names if name not in taken)


def _note(work: Work, key: tuple[str, int], now: float, note: str, state: State) -> None:
    values = (*key, now, note, _text(state))
    work.run("INSERT INTO rollout_steps VALUES (?, ?, ?, ?, ?)", values)


def _text(value: Any) -> str:
    return encode(value).decode()


def _read(text: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as exc:
        raise StorageError(f"a rollout cannot be read: {exc}: update edge-fleet") from exc
