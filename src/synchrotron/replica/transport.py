"""The port to a server. Transports deliver; only the replica writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from synchrotron.core.ids import Seq
from synchrotron.core.messages import SnapshotChunk, SnapshotRequest, SyncAnswer, SyncRequest


class Transport(Protocol):
    """Delivers requests, and gives back answers, or raises.

    Raises `Offline` where no answer came (the request may have arrived all the same) and
    `Unauthorized` where the server does not accept the token.
    """

    @property
    def user(self) -> str | None:
        """Whose connection it is, where that is known before the first exchange."""

    def exchange(self, request: SyncRequest) -> SyncAnswer: ...

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]: ...

    def wait(self, ms: int) -> None:
        """Let this time pass: the network's owner is the time's owner."""


# ---- what some transports can do besides ------------------------------------------


@runtime_checkable
class SignsIn(Protocol):
    """Has a token, which says whose connection it is."""

    def sign_in(self) -> str | None:
        """Get a token, if there is none, and say whose it is. Sends nothing to the server."""


@runtime_checkable
class Overlaps(Protocol):
    """Waits for an answer while the replica does something else."""

    def begin(self, request: SyncRequest) -> Callable[[], SyncAnswer]:
        """Send a request. The function waits for the answer, and raises what `exchange` does.

        It need not be called: then the answer is as good as lost.
        """


@runtime_checkable
class Listens(Protocol):
    """Hears of commits."""

    def listen(
        self, news: Callable[[Seq], None], connected: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Until the function that is returned is called, tell `news` the horizon of commits.

        `connected` is told whether anything would be heard now. Both may be called in any
        thread.
        """


@runtime_checkable
class Cancels(Protocol):
    """Can give up what is under way."""

    def cancel(self) -> None:
        """The exchange that is under way, or a wait, raises `Offline` soon."""
