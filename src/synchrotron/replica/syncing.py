"""Syncing: one exchange after another, until the replica is in step with the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from synchrotron.core.clock import span
from synchrotron.core.messages import Behind, Limit, Ok, Staged, SyncAnswer, SyncRequest
from synchrotron.errors import Blocked, Offline, Unauthorized, UsageError, WrongUser
from synchrotron.replica.engine import Engine
from synchrotron.replica.events import Listeners, SyncReport, logger
from synchrotron.replica.exchange import LARGEST, SKEW_MS_MAX, Next, PartSize, Taken, cut
from synchrotron.replica.outcomes import Outcome
from synchrotron.replica.transport import Overlaps, SignsIn, Transport

ROUNDS_MAX = 1_000
SENDINGS_MAX = 3

Announce = Callable[[set[str], list[Outcome]], None]
"""Told of each commit: the tables that changed, and outcomes that are new."""


NEXT_PAGE = Next(again=True, upload=False)


class Asked(NamedTuple):
    """A request that is on its way, and what waits for its answer."""

    request: SyncRequest
    answer: Callable[[], SyncAnswer]


class Syncing:
    """When to exchange what. One sync at a time; its database lock is free while waiting."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport | None,
        listeners: Listeners,
        announce: Announce,
    ) -> None:
        self.state = "offline"
        self._engine = engine
        self._transport = transport
        self._listeners = listeners
        self._announce = announce
        self._turn = threading.Lock()
        self._part_size = LARGEST
        self._thread: int | None = None
        """The one that syncs."""
        self._begun = 0
        """How many syncs were begun."""
        self._last: SyncReport | None = None
        """What the last one did, unless it failed."""

    @property
    def transport(self) -> Transport:
        """The way to the server. Raises `UsageError` where there is none."""
        if self._transport is None:
            raise UsageError("there is no server: open the replica with server=… or transport=…")
        return self._transport

    def sync(self) -> SyncReport:
        """Exchange until in step. Raises `SyncError`; what was not sent stays queued.

        One sync at a time: whoever asks while one is under way waits for the next, which
        serves all who wait.
        """
        transport, begun = self.transport, self._begun
        self.check_outside_callbacks()
        with self._turn:
            if self._begun > begun and self._last is not None:
                return self._last  # it began after we asked
            self._begun += 1
            self._last = None
            self._thread = threading.get_ident()
            try:
                self._last = self._sync(transport)
            finally:
                self._thread = None
            return self._last

    def check_outside_callbacks(self) -> None:
        """Raises `UsageError` where a callback would wait for the sync that it is called by."""
        if self._thread == threading.get_ident():
            raise UsageError(
                "sync() or wait() in a callback of a sync, which goes on when the callback "
                "returns: let another thread call it"
            )

    def _sync(self, transport: Transport) -> SyncReport:
        self._enter("syncing")
        report = SyncReport()
        try:
            self._sign_in(transport)
            ended = self._exchange_all(transport, report)
        except (Blocked, Unauthorized, WrongUser) as error:
            self._block(str(error))
            raise
        except BaseException:
            self._enter("offline")
            raise
        if ended.wait_ms is None:
            self._enter("in step")
        else:
            self._block("an order key runs ahead of the server's clock, and waits for it")
        if abs(report.skew_ms) > SKEW_MS_MAX:
            logger.warning(
                "this machine's clock is %s %s the server's: set it (NTP). Until then actions "
                "get their places in history by a wrong time",
                span(abs(report.skew_ms)),
                "behind" if report.skew_ms > 0 else "ahead of",
            )
        self._listeners.emit("synced", report)
        return report

    def _sign_in(self, transport: Transport) -> None:
        """Know whose token it is before anything is sent. Raises `WrongUser`."""
        if isinstance(transport, SignsIn):
            self._engine.claim(transport.sign_in())

    def _exchange_all(self, transport: Transport, report: SyncReport) -> Next:
        next = Next(again=True, rebase=not self._engine.state().bootstrapped)
        ahead: Asked | None = None
        while next.again:
            if report.rounds >= ROUNDS_MAX:
                raise Blocked(f"no rest after {ROUNDS_MAX} exchanges")
            taken, ahead = self._exchange(transport, next, ahead)
            report.add(taken.report)
            self._tell(taken)
            next = taken.next
            if next.again and next.wait_ms is not None:
                transport.wait(next.wait_ms)
        if next.blocked is not None:
            raise Blocked(next.blocked)
        return next

    def _exchange(
        self, transport: Transport, next: Next, ahead: Asked | None
    ) -> tuple[Taken, Asked | None]:
        """One exchange, or the end of one that was begun; and what was begun meanwhile."""
        if next.rebase:
            wish = self._engine.ask_snapshot(new_epoch=next.new_epoch)
            chunks = transport.snapshot(wish)
            return self._engine.take_snapshot(wish, chunks, new_epoch=next.new_epoch), None
        if ahead is not None and next == NEXT_PAGE:
            request, answer = ahead.request, ahead.answer()
        else:  # if a page was asked for meanwhile, its answer is as good as lost
            request = self._engine.ask(upload=next.upload)
            request, answer = deliver(transport, request, self._part_size)
        asked = self._ask_ahead(transport, answer)
        taken = self._engine.take(request, answer)
        if taken.next.smaller and isinstance(answer, Limit):
            self._part_size = self._part_size.below(request, answer.name)
        elif isinstance(answer, Ok):
            self._part_size = LARGEST  # what comes next may be small enough
        return taken, asked

    def _ask_ahead(self, transport: Transport, answer: SyncAnswer) -> Asked | None:
        """Let the server prepare the next page while this one is taken in."""
        if not (isinstance(answer, Ok | Behind) and isinstance(transport, Overlaps)):
            return None
        if not answer.download.more:
            return None
        request = self._engine.ask_ahead(answer.download)
        return Asked(request, transport.begin(request))

    def _tell(self, taken: Taken) -> None:
        logger.info("exchange: %s", taken.report)
        for record, target in taken.left_out:
            logger.warning(
                "action %s %s: what is known of it on %s cannot be applied here",
                record.name,
                record.id,
                target.row,
            )
        self._announce(taken.tables, taken.outcomes)

    def _block(self, reason: str) -> None:
        self._enter(f"blocked: {reason}")
        self._listeners.emit("blocked", reason)

    def _enter(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._listeners.emit("state", state)


def deliver(
    transport: Transport, request: SyncRequest, size_max: PartSize = LARGEST
) -> tuple[SyncRequest, SyncAnswer]:
    """Send a request, a large one in parts; give it with its answer, or the part with its refusal.

    A server that lost parts is given them once more. Raises what the transport does, and
    `Offline` where parts get lost again.
    """
    parts = cut(request, size_max)
    missing = [part.part for part in parts]
    for _ in range(SENDINGS_MAX):
        for part in tuple(missing):
            answer = transport.exchange(parts[part - 1])
            if not isinstance(answer, Staged):
                return parts[part - 1] if isinstance(answer, Limit) else request, answer
            missing = answer.missing
    raise Offline(f"the server lost parts of an upload {SENDINGS_MAX} times")
