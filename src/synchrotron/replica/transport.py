"""The port to a server. Transports deliver; only the replica writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

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
