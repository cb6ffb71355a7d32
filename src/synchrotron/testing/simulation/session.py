"""Sessions: a device that tries to get in step, one message after another.

Requests and answers travel by themselves: each may be lost, late, or come twice, and
the process may end at any commit in between. An answer that comes to a process that
has long asked anew is taken in all the same: so much may a transport do (M3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from synchrotron.core.messages import (
    Behind,
    Ok,
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.errors import ProtocolError
from synchrotron.replica.exchange import Next, Taken
from synchrotron.replica.syncing import NEXT_PAGE
from synchrotron.testing.simulation.climate import Climate
from synchrotron.testing.simulation.device import Device
from synchrotron.testing.simulation.dice import Dice

ROUNDS_MAX = 8
LATE_MS = 5_000


class Surroundings(Protocol):
    """What a session needs of the world."""

    climate: Climate

    def tell(self, text: str, fault: str | None = None) -> None: ...

    def post(self, delay_ms: int, due: Callable[[], None]) -> None: ...

    def throw(self, dice: Dice) -> None:
        """From here on everything random comes from these dice."""

    def serve(self, device: Device, request: SyncRequest) -> SyncAnswer: ...

    def serve_snapshot(self, device: Device, wish: SnapshotRequest) -> list[SnapshotChunk]: ...

    def asked(self, device: Device, request: SyncRequest | SnapshotRequest) -> None: ...

    def taken(self, device: Device, taken: Taken, *, new_epoch: bool = False) -> None: ...

    def befall(self, device: Device, dice: Dice) -> bool:
        """Whether a crash or a power cut befell the device at this commit."""

    def meanwhile(self, device: Device, dice: Dice) -> None:
        """What is done on the device while an answer to it is on its way, if anything."""


class Session:
    """One attempt, until in step or out of luck."""

    def __init__(self, world: Surroundings, device: Device, dice: Dice) -> None:
        self._world = world
        self._device = device
        self._dice = dice
        self._life = device.life
        self._rounds = 0

    def begin(self) -> None:
        self._ask(Next(again=True, rebase=not self._device.engine.state().bootstrapped))

    @property
    def _lives(self) -> bool:
        return self._device.life == self._life

    def _ask(self, next: Next) -> None:
        if not self._lives or self._rounds == ROUNDS_MAX:
            return
        self._rounds += 1
        device, world = self._device, self._world
        if next.rebase:
            wish = device.engine.ask_snapshot(new_epoch=next.new_epoch)
            world.asked(device, wish)
            world.tell(f"{device.name} asks for a snapshot")
            if not world.befall(device, self._dice):
                self._send("request", lambda: self._serve_snapshot(wish, next.new_epoch))
            return
        request = device.engine.ask(upload=next.upload)
        world.asked(device, request)
        world.tell(f"{device.name} sends request {request.exchange.number}{_contents(request)}")
        if not world.befall(device, self._dice):
            self._send("request", lambda: self._serve(request))

    # ---- at the server ------------------------------------------------------------

    def _serve(self, request: SyncRequest) -> None:
        self._world.throw(self._dice)
        answer = self._world.serve(self._device, request)
        if self._lives:
            self._send("answer", lambda: self._take(request, answer))

    def _serve_snapshot(self, wish: SnapshotRequest, new_epoch: bool) -> None:
        self._world.throw(self._dice)
        chunks = self._world.serve_snapshot(self._device, wish)
        if self._lives:
            cut = self._dice.chance(self._world.climate.lost)
            if cut:
                chunks = chunks[: self._dice.randrange(len(chunks))]
            self._send("answer", lambda: self._take_snapshot(wish, chunks, new_epoch, cut))

    # ---- back at the device -------------------------------------------------------

    def _take(self, request: SyncRequest, answer: SyncAnswer) -> None:
        if self._lives:
            self._world.throw(self._dice)
            self._world.meanwhile(self._device, self._dice)
        asked_ahead = self._lives and self._ask_ahead(answer)
        if self._lives:
            device, number = self._device, request.exchange.number
            taken = device.engine.take(request, answer)
            kind = type(answer).__name__.lower()
            self._world.tell(f"{device.name} has the answer to request {number}: {kind}")
            if number < device.answered:
                self._world.tell("  it is older than one that came before", "out of order")
            device.answered = max(device.answered, number)
            if asked_ahead and taken.next == NEXT_PAGE:
                self._world.taken(device, taken)
            else:
                self._go_on(taken)

    def _ask_ahead(self, answer: SyncAnswer) -> bool:
        """Ask for the next page before one is taken in, now and then; whether that was done."""
        if not (isinstance(answer, Ok | Behind) and answer.download.more):
            return False
        if self._rounds == ROUNDS_MAX or self._dice.chance(0.5):
            return False
        self._rounds += 1
        request = self._device.engine.ask_ahead(answer.download)
        self._world.asked(self._device, request)
        text = f"{self._device.name} sends request {request.exchange.number} for the next page"
        self._world.tell(text, "page asked ahead")
        if not self._world.befall(self._device, self._dice):
            self._send("request", lambda: self._serve(request))
        return True

    def _take_snapshot(
        self, wish: SnapshotRequest, chunks: list[SnapshotChunk], new_epoch: bool, cut: bool
    ) -> None:
        if not self._lives:
            return
        device = self._device
        self._world.throw(self._dice)
        if cut:
            self._world.tell(f"{device.name} gets a part of a snapshot", "snapshot cut off")
        try:
            taken = device.engine.take_snapshot(wish, chunks, new_epoch=new_epoch)
        except ProtocolError:
            if not cut:
                raise
            return
        self._world.tell(f"{device.name} has a snapshot")
        self._go_on(taken, new_epoch=new_epoch)

    def _go_on(self, taken: Taken, *, new_epoch: bool = False) -> None:
        self._world.taken(self._device, taken, new_epoch=new_epoch)
        next = taken.next
        if next.again and not self._world.befall(self._device, self._dice):
            self._world.post(next.wait_ms or 0, lambda: self._wake(next))

    def _wake(self, next: Next) -> None:
        self._world.throw(self._dice)
        self._ask(next)

    # ---- the network --------------------------------------------------------------

    def _send(self, what: str, arrive: Callable[[], None]) -> None:
        climate, dice, tell = self._world.climate, self._dice, self._world.tell
        if dice.chance(climate.lost):
            tell(f"  the {what} is lost", f"{what} lost")
            self._world.meanwhile(self._device, dice)  # before it is sent again
            return
        for copy in range(1 + dice.chance(climate.repeated)):
            delay_ms = dice.randint(0, climate.latency_ms)
            if copy:
                tell(f"  the {what} will come twice", f"{what} repeated")
                delay_ms += dice.randint(0, LATE_MS)
            if dice.chance(climate.late):
                tell(f"  the {what} will be late", f"{what} late")
                delay_ms += dice.randint(0, LATE_MS)
            self._world.post(delay_ms, arrive)


def _contents(request: SyncRequest) -> str:
    parts = []
    if request.actions:
        parts.append(f"{len(request.actions)} actions")
    if request.corrections:
        parts.append(f"{len(request.corrections)} corrections")
    return f" with {' and '.join(parts)}" if parts else ""
