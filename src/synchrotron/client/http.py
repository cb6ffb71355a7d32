"""The transport over HTTP.

Requests are made by aiohttp in a loop of their own (`loop`), so that `sync()` works in any
thread, with an event loop or without, and an event stream can be given up at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from synchrotron.client.loop import LoopThread
from synchrotron.client.token import Token, TokenSource
from synchrotron.core.ids import Seq
from synchrotron.core.messages import (
    Busy,
    Limit,
    SnapshotChanges,
    SnapshotChunk,
    SnapshotHead,
    SnapshotRequest,
    SnapshotRows,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.errors import Offline, ProtocolError, SynchrotronError, Unauthorized, UsageError
from synchrotron.replica.backoff import Backoff
from synchrotron.wire.compression import WORTH_BYTES, ZSTD, Expansion, compress
from synchrotron.wire.formats import EVENTS, JSON, LINES, Reader, encode_json
from synchrotron.wire.problems import Problem

T = TypeVar("T")
logger = logging.getLogger("synchrotron")
CONNECT_S = 10
ANSWER_S = 300
"""So long a server may take to judge a large upload."""
SILENCE_S = 60
"""So long it may leave a stream of events silent: several of its heartbeats."""
PROXYS_LIMIT = "of a proxy: HTTP 413"
SNAPSHOT_TRIES = 60
"""So often it is asked for, some seconds apart, where others are being streamed."""
_answers: Reader[SyncAnswer] = Reader(SyncAnswer)
_chunks: Reader[SnapshotChunk] = Reader(SnapshotChunk)


class HttpTransport:
    """Delivers to the server at `url`, as the user of `token`."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        user: str | None = None,
        dice: random.Random | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a server: it begins with https://")
        self._url = url.rstrip("/")
        self._loop = LoopThread(f"synchrotron {parts.hostname}")
        self._token = TokenSource(token, self._loop)
        self._token.user = self._token.user or user
        self._dice = dice or random.Random()
        self._session: aiohttp.ClientSession | None = None
        # Not by aiohttp's `trust_env`, which reads the environment and a .netrc for each request:
        # a third of the time of an exchange without news.
        bypassed = proxy_bypass(parts.netloc.rpartition("@")[2])
        self._proxy = None if bypassed else getproxies().get(parts.scheme)
        self._interrupted = threading.Event()

    # ---- who ------------------------------------------------------------------------

    @property
    def user(self) -> str | None:
        """Whose connection it is; with a callable token that is known once it was called."""
        return self._token.user

    def sign_in(self) -> str | None:
        """Get a token, if there is none, and say whose it is."""
        self._token.present()
        return self._token.user

    # ---- exchanges ------------------------------------------------------------------

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        """Raises `Offline`, `Unauthorized` or `ProtocolError`."""
        self._interrupted.clear()  # what was given up was an earlier one
        body = encode_json(request)
        return self._authorized(lambda token: self._loop.run(self._exchange(token, body)))

    def begin(self, request: SyncRequest) -> Callable[[], SyncAnswer]:
        """Send a request, and wait for its answer later."""
        wait = self._loop.begin(self._exchange(self._token.present(), encode_json(request)))

        def answer() -> SyncAnswer:
            try:
                return wait()
            except Unauthorized:  # nothing was done: ask with another token
                return self.exchange(request)

        return answer

    async def _exchange(self, token: str, body: bytes) -> SyncAnswer:
        async with self._request("POST", "/v1/sync", token, body, JSON) as response:
            problem = await self._problem(response)
            if problem is None:
                with _protocol(self._url):
                    return _answers.read(JSON, await _read(response))
        if problem.kind != "limit":
            raise _error(problem)
        return _limit(problem)

    def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
        """Chunks as they come. Raises `Offline` also where they end before the last."""
        self._interrupted.clear()
        body = encode_json(request)
        for _ in range(SNAPSHOT_TRIES):
            response, first = self._authorized(
                lambda token: self._loop.run(self._open_snapshot(token, body))
            )
            if not isinstance(first, Busy):
                break
            self.wait(first.retry_after_ms)
        else:
            raise Offline("the server is busy with other snapshots")
        if first is not None:
            yield first
            return
        assert response is not None
        whole = False
        try:
            for line in self._lines(response):
                with _protocol(self._url):
                    chunk = _chunks.read(JSON, line)
                whole = not isinstance(chunk, SnapshotHead | SnapshotChanges | SnapshotRows)
                yield chunk
        finally:
            response.close()
        if not whole:
            raise Offline("the snapshot broke off")

    async def _open_snapshot(
        self, token: str, body: bytes
    ) -> tuple[aiohttp.ClientResponse | None, Busy | Limit | None]:
        """The stream of chunks, or why there is none, now or ever."""
        response = await self._send("POST", "/v1/snapshot", token, body, LINES)
        problem = await self._problem(response)
        if problem is None and response.content_type == LINES:
            return response, None
        response.release()
        if problem is None:
            raise ProtocolError(
                f"{self._url} gives no snapshot but {response.content_type}: "
                "is it the address of a server?"
            )
        if problem.kind == "limit":
            return None, _limit(problem)
        raise _error(problem)

    def _lines(self, response: aiohttp.ClientResponse) -> Iterator[bytes]:
        rest = b""
        with _protocol(self._url):
            expansion = Expansion(response.headers.get("content-encoding"))
            while piece := self._loop.run(self._piece(response)):
                *lines, rest = (rest + expansion.piece(piece)).split(b"\n")
                yield from lines

    async def _piece(self, response: aiohttp.ClientResponse) -> bytes:
        with _offline(self._url):
            return await response.content.readany()

    # ---- tokens ---------------------------------------------------------------------

    def _authorized(self, ask: Callable[[str], T]) -> T:
        """Ask with the present token, and once more with another one if that is refused."""
        token = self._token.present()
        try:
            return ask(token)
        except Unauthorized as refused:
            another = self._token.replace(token, str(refused))
        try:
            return ask(another)
        except Unauthorized:
            self._token.forget(another)
            raise

    # ---- waiting --------------------------------------------------------------------

    def wait(self, ms: int) -> None:
        if self._interrupted.wait(ms / 1000):
            self._interrupted.clear()
            raise Offline("waiting was given up")

    def cancel(self) -> None:
        """Give up the exchange that is under way, and any wait: they raise `Offline`."""
        self._interrupted.set()
        self._loop.cancel()

    def listen(
        self, news: Callable[[Seq], None], connected: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Hear of commits until the function that is returned is called.

        `news` gets the horizon, `connected` whether anything would be heard now. Both are
        called in another thread.
        """
        listening: Future[None] = self._loop.start(self._listen(news, connected))

        def stop() -> None:
            listening.cancel()

        return stop

    async def _listen(self, news: Callable[[Seq], None], connected: Callable[[bool], None]) -> None:
        backoff, token = Backoff(self._dice), ""
        while True:
            try:
                token = await asyncio.to_thread(self._token.present)
                async for horizon in self._events(token):
                    backoff.reset()
                    connected(True)
                    news(horizon)
            except Unauthorized as refused:
                self._token.forget(token)
                logger.info("events: %s", refused)
            except SynchrotronError as error:
                logger.info("events: %s", error)
            except Exception:
                logger.exception("events cannot be followed")
            connected(False)
            await asyncio.sleep(backoff.next_s())

    async def _events(self, token: str) -> AsyncIterator[Seq]:
        """The horizon of each event.

        The first comes by itself, once no commit would be missed. A stream that has only begun
        promises nothing: a proxy may hold back what follows.
        """
        async with self._request("GET", "/v1/events", token, None, EVENTS) as response:
            problem = await self._problem(response)
            if problem is not None:
                raise _error(problem)
            with _offline(self._url):
                async for line in response.content:
                    if line.startswith(b"data:"):
                        yield msgspec.json.decode(line[5:], type=_Horizon).horizon

    # ---- requests -------------------------------------------------------------------

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, token: str, body: bytes | None, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._send(method, path, token, body, accept)
        try:
            yield response
        finally:
            response.release()

    async def _send(
        self, method: str, path: str, token: str, body: bytes | None, accept: str
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        headers = {
            "authorization": f"Bearer {token}",
            "accept": accept,
            "accept-encoding": "zstd, gzip",
            "content-type": JSON,
        }
        if body is not None and len(body) >= WORTH_BYTES:
            headers["content-encoding"] = ZSTD
            body = compress(ZSTD, body)
        silence_s = SILENCE_S if accept == EVENTS else ANSWER_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        with _offline(self._url):
            return await self._session.request(
                method,
                self._url + path,
                data=body,
                headers=headers,
                proxy=self._proxy,
                timeout=timeout,
                allow_redirects=False,
            )

    async def _problem(self, response: aiohttp.ClientResponse) -> Problem | None:
        """What the server says where it gives no answer."""
        if response.status == 200:
            return None
        body = await _read(response)
        try:
            return msgspec.json.decode(body, type=Problem)
        except msgspec.DecodeError:
            if response.status == 413:  # of a proxy on the way
                return Problem(
                    kind="limit", message="", now_ms=time.time_ns() // 1_000_000, name=PROXYS_LIMIT
                )
            if response.status >= 500 or response.status == 429:
                raise Offline(f"{self._url} answers {response.status}") from None
            raise ProtocolError(
                f"{self._url} answers {response.status}: is it the address of a server?"
            ) from None

    def close(self) -> None:
        """End everything. What comes after raises `Offline`."""
        self._interrupted.set()
        self._loop.close(self._close_session)

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Horizon(msgspec.Struct):
    horizon: Seq


@contextmanager
def _offline(url: str) -> Iterator[None]:
    """Makes the network's errors `Offline`."""
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise Offline(f"no answer from {url}: {reason}") from error


@contextmanager
def _protocol(url: str) -> Iterator[None]:
    """Makes what cannot be read a `ProtocolError`."""
    try:
        yield
    except ValueError as error:
        raise ProtocolError(f"{url} gives no answer of a Synchrotron server: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    with _offline(str(response.url.origin())):
        body = await response.read()
    with _protocol(str(response.url.origin())):
        return Expansion(response.headers.get("content-encoding")).piece(body)


def _limit(problem: Problem) -> Busy | Limit:
    """A limit for now, or one that an operator has to raise."""
    if problem.retry_after_ms is not None:
        return Busy(now_ms=problem.now_ms, retry_after_ms=problem.retry_after_ms)
    return Limit(now_ms=problem.now_ms, name=problem.name or problem.message)


def _error(problem: Problem) -> SynchrotronError:
    """Who has to act is told by the kind."""
    match problem.kind:
        case "unauthorized":
            return Unauthorized(problem.message)
        case "unavailable" | "failed" | "timeout" | "limit":
            return Offline(problem.message)
        case _:
            return ProtocolError(problem.message)
