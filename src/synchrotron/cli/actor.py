"""One of the demo's replicas and what the stage asks of it, here or in a process of its own.

Such a process runs `act`: it reads calls from its standard input and answers each on its
standard output, a line of JSON for either.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import Any, Protocol

import msgspec

from synchrotron import ActionRecord, Outcome, Replica, SyncReport
from synchrotron.cli import market
from synchrotron.cli.story import JARS, OWNERS, STEPS
from synchrotron.core.clock import to_ms
from synchrotron.replica.events import EventName
from synchrotron.store.closing import Closing
from synchrotron.testing.oracle import Tables

NINE_O_CLOCK_MS = 1_777_712_400_000
"""2 May 2026, 9:00 UTC: the demo is the same every time."""
LAST_MINUTE = max(step.minute for step in STEPS)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_ms = NINE_O_CLOCK_MS

    def __call__(self) -> int:
        return self.now_ms

    def set(self, minute: int) -> None:
        self.now_ms = NINE_O_CLOCK_MS + minute * 60_000


class Ran(msgspec.Struct):
    """What an action returned, or the rule that refused it."""

    result: str | None = None
    refused: str | None = None


class Told(msgspec.Struct):
    """What a sync did. Actions are named by their minutes."""

    report: SyncReport
    rolled_back: list[int]
    ran: list[int]
    """What was rolled back and what is new, in order."""
    news: list[tuple[int, Outcome]]
    """Own actions that end differently now."""


class Acts(Protocol):
    """What the stage asks of a replica."""

    def open_stall(self) -> None: ...

    def carry_out(self, minute: int) -> Ran: ...

    def sync(self, minute: int) -> Told: ...

    def pending(self) -> int: ...

    def tables(self) -> Tables: ...

    def records(self) -> list[ActionRecord]: ...


class Actor:
    """A replica, and the clock that it goes by."""

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._minutes: dict[str, int] = {}

    def open_stall(self) -> None:
        self._replica.run(market.open_stall, members=sorted({*OWNERS.values()}), jars=JARS)

    def carry_out(self, minute: int) -> Ran:
        """Do what the story has at this minute."""
        [step] = [step for step in STEPS if step.minute == minute]
        self._clock.set(minute)
        try:
            run = self._replica.run(step.action, **step.args)
        except market.Refused as refused:
            return Ran(refused=str(refused))
        self._minutes[run.id] = minute
        return Ran(run.result)

    def sync(self, minute: int) -> Told:
        self._clock.set(minute)
        before = self._replica.log()
        with subscribed(self._replica, "rejected", "changed") as outcomes:
            report = self._replica.sync()
        after = self._replica.log()
        fresh = {record.id for record in after} - {record.id for record in before}
        # Whatever stands after the first new action had to be undone to put that in its place.
        ran = list(dropwhile(lambda record: record.id not in fresh, after))
        return Told(
            report,
            rolled_back=[minute_of(record) for record in ran if record.id not in fresh],
            ran=[minute_of(record) for record in ran],
            news=[(self._minutes[outcome.id], outcome) for outcome in outcomes],
        )

    def pending(self) -> int:
        return sum(outcome.state == "pending" for outcome in self._replica.outcomes())

    def tables(self) -> Tables:
        return {
            name: [
                dict(row)
                for row in self._replica.query(
                    f"SELECT * FROM {name} ORDER BY {', '.join(table.key)}"
                )
            ]
            for name, table in market.app.schema.tables.items()
        }

    def records(self) -> list[ActionRecord]:
        return self._replica.log()


@contextmanager
def subscribed(replica: Replica, *events: EventName) -> Iterator[list[Outcome]]:
    """A list of the outcomes that these events tell."""
    told: list[Outcome] = []
    with ExitStack() as subscriptions:
        for event in events:
            subscriptions.callback(replica.on(event, told.append))
        yield told


def minute_of(record: ActionRecord) -> int:
    return (to_ms(record.now) - NINE_O_CLOCK_MS) // 60_000


# ---- in a process of its own -------------------------------------------------------------


class Call(msgspec.Struct):
    """One line of a process's input."""

    name: str
    minute: int | None = None


class RemoteActor(Closing):
    """An actor in a process of its own."""

    def __init__(self, file: Path, server: str, token: str) -> None:
        program = "import sys; from synchrotron.cli.actor import act; act(*sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(file), server, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _call(self, answer: Any, name: str, minute: int | None = None) -> Any:
        """Raises `RuntimeError` where the process is gone."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(Call(name, minute)) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last tells more
        if not (line := process.stdout.readline()):
            raise RuntimeError(f"a replica's process ended with {process.wait()} at {name}")
        return msgspec.json.decode(line, type=answer)

    def open_stall(self) -> None:
        self._call(None, "open_stall")

    def carry_out(self, minute: int) -> Ran:
        ran: Ran = self._call(Ran, "carry_out", minute)
        return ran

    def sync(self, minute: int) -> Told:
        told: Told = self._call(Told, "sync", minute)
        return told

    def pending(self) -> int:
        count: int = self._call(int, "pending")
        return count

    def tables(self) -> Tables:
        tables: Tables = self._call(Tables, "tables")
        return tables

    def records(self) -> list[ActionRecord]:
        records: list[ActionRecord] = self._call(list[ActionRecord], "records")
        return records

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def act(file: str, server: str, token: str) -> None:
    """Answer calls until the standard input ends."""
    # The story's clocks stand still, and the server's does so at its end: that is no news.
    logging.getLogger("synchrotron").setLevel(logging.ERROR)
    clock = Clock()
    # All of it is told: the story is of rolling back, not of how little of that is needed.
    with market.app.open(file, server=server, token=token, clock=clock, replay_all=True) as replica:
        actor = Actor(replica, clock)
        for line in sys.stdin.buffer:
            call = msgspec.json.decode(line, type=Call)
            method = getattr(actor, call.name)
            answer = method() if call.minute is None else method(call.minute)
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
