"""The demo's stage: three replicas and a server, in this process or each in one of its own.

Nothing here prints: what happened is returned as data.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from synchrotron import ActionRecord, Outcome, Replica, SyncReport
from synchrotron.cli import market
from synchrotron.cli.actor import LAST_MINUTE, Actor, Acts, Clock
from synchrotron.cli.story import OWNERS, STEPS, Step
from synchrotron.testing import MemoryServer
from synchrotron.testing.oracle import Tables, serial_tables


class Done(NamedTuple):
    """What came of a step: what its action returned, or the rule that refused it."""

    step: Step
    result: str | None
    refused: str | None


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
    """All that takes part. `server_tables` and `history` tell what the server holds."""

    def __init__(
        self,
        setting: str,
        actors: Mapping[str, Acts],
        server_tables: Callable[[], Tables],
        history: Callable[[], list[ActionRecord]],
    ) -> None:
        self.setting = setting
        """Where all of it happens, in a sentence."""
        self.actors = actors
        self.history = history
        self._server_tables = server_tables

    def open_stall(self) -> None:
        """Alice opens it on the first of her replicas; everyone takes it in."""
        next(iter(self.actors.values())).open_stall()
        for actor in self.actors.values():
            actor.sync(0)

    def carry_out(self, step: Step) -> Done:
        ran = self.actors[step.who].carry_out(step.minute)
        return Done(step, ran.result, ran.refused)

    def sync(self, who: str) -> Synced:
        told = self.actors[who].sync(LAST_MINUTE)
        steps = {step.minute: step for step in STEPS}
        news = [(steps[minute], outcome) for minute, outcome in told.news]
        return Synced(who, told.report, told.rolled_back, told.ran, news)

    def unsent(self) -> dict[str, int]:
        """How many actions each replica has still to send, where there are any."""
        counts = {name: actor.pending() for name, actor in self.actors.items()}
        return {name: n for name, n in counts.items() if n}

    # ---- what everyone holds ----------------------------------------------------------

    def held(self) -> dict[str, Tables]:
        """All tables of each replica and of the server."""
        held = {name: actor.tables() for name, actor in self.actors.items()}
        return held | {"server": self._server_tables()}

    def serial(self) -> Tables:
        """The tables after running all actions once, in order, on an empty database."""
        return serial_tables(market.app, self.history())


class MemoryStage(Stage):
    """Everything in this process, with one clock and one dice. Made by `open_stage`."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        clock = Clock()
        entropy = random.Random(9).randbytes
        server = MemoryServer(market.app, clock=clock, entropy=entropy)
        self.replicas: dict[str, Replica] = {
            name: opened.enter_context(
                market.app.open(
                    folder / f"{name}.db",
                    transport=server.connect(user),
                    clock=clock,
                    entropy=entropy,
                    replay_all=True,
                )
            )
            for name, user in OWNERS.items()
        }
        super().__init__(
            "The server is a MemoryServer: it lives in this process, in memory.",
            {name: Actor(replica, clock) for name, replica in self.replicas.items()},
            lambda: {table: server.rows(table) for table in market.app.schema.tables},
            lambda: server.history,
        )


@contextmanager
def open_stage(folder: Path) -> Iterator[MemoryStage]:
    """Open all replicas on files in this folder; they are closed at the end."""
    with ExitStack() as opened:
        yield MemoryStage(folder, opened)
