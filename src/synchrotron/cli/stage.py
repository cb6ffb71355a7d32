"""The demo's stage: three replicas, a server, and one clock and one dice for all of them.

Nothing here prints: what happened is returned as data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from synchrotron import ActionRecord, Outcome, Replica, SyncReport
from synchrotron.cli import market
from synchrotron.cli.story import JARS, OWNERS, Step
from synchrotron.core.clock import to_ms
from synchrotron.replica.events import EventName
from synchrotron.testing import MemoryServer
from synchrotron.testing.oracle import Tables, serial_tables

NINE_O_CLOCK_MS = 1_777_712_400_000
"""2 May 2026, 9:00 UTC: the demo is the same every time."""


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_ms = NINE_O_CLOCK_MS

    def __call__(self) -> int:
        return self.now_ms

    def set(self, minute: int) -> None:
        self.now_ms = NINE_O_CLOCK_MS + minute * 60_000


class Done(NamedTuple):
    """What came of a step: what its action returned, or the rule that refused it."""

    step: Step
    result: str | None
    refused: market.Refused | None = None


class Synced(NamedTuple):
    """What one sync did. Steps are named by their minutes."""

    who: str
    report: SyncReport
    rolled_back: list[int]
    ran: list[int]
    """What was rolled back and what is new, in order."""
    news: list[tuple[Step, Outcome]]
    """Own steps that end differently now."""

    @property
    def quiet(self) -> bool:
        """There was nothing to send or receive."""
        report = self.report
        return not (report.uploaded or report.received or report.corrected or report.parked)


class Stage:
    """All that takes part. Made by `open_stage`."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.clock = Clock()
        self._steps: dict[str, Step] = {}
        entropy = random.Random(9).randbytes
        self.server = MemoryServer(market.app, clock=self.clock, entropy=entropy)
        self.replicas: dict[str, Replica] = {
            name: opened.enter_context(
                market.app.open(
                    folder / f"{name}.db",
                    transport=self.server.connect(user),
                    clock=self.clock,
                    entropy=entropy,
                )
            )
            for name, user in OWNERS.items()
        }

    def open_stall(self) -> None:
        """Alice opens it on the first of her replicas; everyone takes it in."""
        first = next(iter(self.replicas.values()))
        first.run(market.open_stall, members=sorted({*OWNERS.values()}), jars=JARS)
        for replica in self.replicas.values():
            replica.sync()

    def carry_out(self, step: Step) -> Done:
        self.clock.set(step.minute)
        try:
            run = self.replicas[step.who].run(step.action, **step.args)
        except market.Refused as refused:
            return Done(step, None, refused)
        self._steps[run.id] = step
        return Done(step, run.result)

    def sync(self, who: str) -> Synced:
        replica = self.replicas[who]
        before = replica.log()
        with subscribed(replica, "rejected", "changed") as outcomes:
            report = replica.sync()
        after = replica.log()
        fresh = {record.id for record in after} - {record.id for record in before}
        # Whatever stands after the first new action had to be undone to put that in its place.
        ran = list(dropwhile(lambda record: record.id not in fresh, after))
        return Synced(
            who,
            report,
            rolled_back=[minute_of(record) for record in ran if record.id not in fresh],
            ran=[minute_of(record) for record in ran],
            news=[(self._steps[outcome.id], outcome) for outcome in outcomes],
        )

    def unsent(self) -> dict[str, int]:
        """How many actions each replica has still to send, where there are any."""
        counts = {name: pending(replica) for name, replica in self.replicas.items()}
        return {name: n for name, n in counts.items() if n}

    # ---- what everyone holds ----------------------------------------------------------

    def held(self) -> dict[str, Tables]:
        """All tables of each replica and of the server."""
        held = {name: tables_of(replica) for name, replica in self.replicas.items()}
        names = market.app.schema.tables
        return held | {"server": {table: self.server.rows(table) for table in names}}

    def serial(self) -> Tables:
        """The tables after running all actions once, in order, on an empty database."""
        return serial_tables(market.app, self.server.history)


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


def pending(replica: Replica) -> int:
    return sum(outcome.state == "pending" for outcome in replica.outcomes())


def tables_of(replica: Replica) -> Tables:
    return {
        name: [
            dict(row)
            for row in replica.query(f"SELECT * FROM {name} ORDER BY {', '.join(table.key)}")
        ]
        for name, table in market.app.schema.tables.items()
    }


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """Open all replicas on files in this folder; they are closed at the end."""
    with ExitStack() as opened:
        yield Stage(folder, opened)
