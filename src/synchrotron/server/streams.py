"""Responses that go on: snapshots, line by line, and event streams, which wake replicas.

An event stream ends when its token does, and when the server is to stop: a server that
waited for its clients to hang up would never end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from synchrotron.core.ids import Seq
from synchrotron.core.messages import SnapshotChunk
from synchrotron.wire.compression import Compression
from synchrotron.wire.formats import EVENTS, LINES, encode_json

logger = logging.getLogger("synchrotron.server")
PATIENCE_S = 30.0
"""So long a piece of a stream may wait to be taken."""
HEARTBEAT_S = 15.0
"""Proxies take a silent connection for a dead one, most of them after a minute."""


class Streaming(StreamingResponse):
    """A stream that gives up what it holds whichever way it ends."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        held: AsyncExitStack,
        *,
        media_type: str,
        headers: dict[str, str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", **headers}
        super().__init__(body, media_type=media_type, headers=headers)
        self._held = held
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self._patience_s):
                await send(message)

        async with self._held:
            try:
                await super().__call__(scope, receive, send_soon)
            except TimeoutError:  # it would hold what it holds for ever
                logger.warning("a stream ended: nobody read it for %g s", self._patience_s)


def snapshot_response(
    first: SnapshotChunk,
    rest: AsyncIterator[SnapshotChunk],
    coding: str | None,
    held: AsyncExitStack,
    patience_s: float,
) -> Streaming:
    """A snapshot as lines of JSON, each of which can be read when it has come."""
    headers = {"vary": "accept-encoding", **({"content-encoding": coding} if coding else {})}
    body = _lines(first, rest, coding)
    return Streaming(body, held, media_type=LINES, headers=headers, patience_s=patience_s)


async def _lines(
    first: SnapshotChunk, rest: AsyncIterator[SnapshotChunk], coding: str | None
) -> AsyncIterator[bytes]:
    stream = Compression(coding)
    yield stream.piece(encode_json(first) + b"\n")
    async for chunk in rest:
        yield stream.piece(encode_json(chunk) + b"\n")
    if end := stream.end():
        yield end


class EventStreams:
    """The open event streams of one application."""

    def __init__(
        self, *, heartbeat_s: float = HEARTBEAT_S, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._clock_s = clock_s
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams, and let none begin."""
        self._closing.set()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def response(
        self, commits: AsyncIterator[Seq], until_s: float, held: AsyncExitStack
    ) -> Streaming:
        """Server-sent events: the horizon of each commit, until the token's end."""
        return Streaming(self._events(commits, until_s), held, media_type=EVENTS, headers={})

    async def _events(self, commits: AsyncIterator[Seq], until_s: float) -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        closing = asyncio.ensure_future(self._closing.wait())
        next_commit = asyncio.ensure_future(_next(commits))
        try:
            while not closing.done() and (left_s := until_s - self._clock_s()) > 0:
                await asyncio.wait(
                    {closing, next_commit},
                    timeout=min(self._heartbeat_s, left_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not next_commit.done():
                    yield b": still here\n\n"
                    continue
                horizon = next_commit.result()
                if horizon is None:
                    break
                next_commit = asyncio.ensure_future(_next(commits))
                yield b'id: %d\nevent: commit\ndata: {"horizon":%d}\n\n' % (horizon, horizon)
        except Exception:
            logger.exception("an event stream ended, since commits cannot be followed")
        finally:
            closing.cancel()
            next_commit.cancel()
            await asyncio.gather(closing, next_commit, return_exceptions=True)


async def _next(commits: AsyncIterator[Seq]) -> Seq | None:
    return await anext(commits, None)
