"""The port between HTTP and what decides: where history is kept, judged and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from synchrotron.core.ids import Seq
from synchrotron.core.messages import SnapshotChunk, SnapshotRequest, SyncAnswer, SyncRequest


class Authority(Protocol):
    """Answers the requests of users whose tokens were checked already (H9).

    Every method may be called by any number of tasks at once. Raises `ProtocolError` for a
    message that the protocol does not allow, and `Offline` where history cannot be reached;
    nothing is stored then.
    """

    async def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        """Judge an upload and answer a question, in one transaction."""
        ...

    def snapshot(self, user: str, request: SnapshotRequest) -> AsyncIterator[SnapshotChunk]:
        """Stream a snapshot (F1), or a refusal as the only chunk."""
        ...

    def commits(self, user: str) -> AsyncIterator[Seq]:
        """The horizon, each time something that this user can see was committed.

        Begins with the present horizon, as soon as no later commit can be missed. Several
        commits may come as one. It never ends by itself: close it.
        """
        ...

    async def check(self) -> None:
        """Raise `Offline` where history cannot be reached now."""
        ...
