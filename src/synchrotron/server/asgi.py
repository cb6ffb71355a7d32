"""The server's face: an ASGI application.

It checks who is asking and how much, reads messages and writes answers. What they mean is
for the authority. Nothing is kept here but limits of rate, so that any number of processes
may serve one history (H10).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from types import ModuleType
from typing import Any, Unpack

import aiohttp
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from synchrotron.core.messages import SnapshotRequest, SyncRequest
from synchrotron.errors import Offline, ProtocolError, ServerError, UsageError
from synchrotron.server.authority import Authority
from synchrotron.server.bodies import UnknownFormat, coding_for, read_message, reply
from synchrotron.server.exchange import Bounds
from synchrotron.server.limits import LimitExceeded, OpenSnapshots, OpenStreams, Rates, check_size
from synchrotron.server.metrics import Metrics, kind_of
from synchrotron.server.openapi import document
from synchrotron.server.postgres import PostgresAuthority
from synchrotron.server.settings import Options, Settings, read_settings
from synchrotron.server.streams import EventStreams, snapshot_response
from synchrotron.server.tokens import Bearer, Fetch, KeysUnavailable, TokenRefused, Tokens
from synchrotron.wire.formats import Reader, Unreadable
from synchrotron.wire.problems import STATUS, Problem, ProblemKind

logger = logging.getLogger("synchrotron.server")
tracer = trace.get_tracer("synchrotron.server")
KEYS_BYTES_MAX = 1_000_000
KEYS_TIMEOUT_S = 10
UNAVAILABLE_RETRY_S = 5
DAY_MS = 24 * 3600 * 1000

Connect = Callable[[], AbstractAsyncContextManager[Authority]]
Handler = Callable[[Request], Awaitable[Response]]


def asgi(
    database: str | None = None,
    *,
    authority: Authority | None = None,
    fetch: Fetch | None = None,
    **options: Unpack[Options],
) -> Server:
    """A server as an ASGI application, to run by itself or to mount in another one.

    `database` is the URL of a PostgreSQL database (`SYNCHROTRON_DATABASE_URL`). In its place
    an `authority` may be given, such as `synchrotron.testing.memory_authority` has. For the
    other options see `Settings`; what is not given is read from the environment. `fetch` gets
    the body at a URL, for the JWKS. Raises `UsageError`.
    """
    settings = read_settings(os.environ, **options)
    if authority is not None:
        return Server(settings, _given(authority), fetch=fetch or fetch_keys)
    database = database or os.environ.get("SYNCHROTRON_DATABASE_URL")
    if not database:
        raise UsageError("which database? Give database=… or set SYNCHROTRON_DATABASE_URL")
    return Server(settings, _connected(database, settings), fetch=fetch or fetch_keys)


def _connected(database: str, settings: Settings) -> Connect:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Authority]:
        bounds = Bounds(
            max_clock_drift_ms=settings.max_clock_drift_ms,
            max_backdate_ms=settings.max_backdate_ms,
            page_events=settings.page_events,
        )
        connections_max = settings.connections_max
        async with PostgresAuthority(
            database, bounds=bounds, connections_max=connections_max
        ) as history:
            if settings.retention_days is None:
                yield history
                return
            age_ms_max = int(settings.retention_days * DAY_MS)
            pruning = asyncio.create_task(history.keep_pruned(age_ms_max=age_ms_max))
            try:
                yield history
            finally:
                pruning.cancel()
                await asyncio.gather(pruning, return_exceptions=True)

    return connect


def _given(authority: Authority) -> Connect:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Authority]:
        yield authority

    return connect


async def fetch_keys(url: str) -> bytes:
    """The body at a URL. Raises `OSError` or `TimeoutError`."""
    timeout = aiohttp.ClientTimeout(total=KEYS_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, raise_for_status=True) as response,
        ):
            return await response.content.read(KEYS_BYTES_MAX)
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


class Server:
    """The ASGI application. The authority is connected to when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        *,
        fetch: Fetch = fetch_keys,
        clock_s: Callable[[], float] = time.time,
        heartbeat_s: float | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._clock_s = clock_s
        self._connect = connect
        self._tokens = Tokens(settings, fetch, clock_s)
        self._rates = Rates(settings.requests_per_minute, clock_s)
        self._open_streams = OpenStreams(settings)
        self._open_snapshots = OpenSnapshots(settings.snapshots_max)
        self._streams = (
            EventStreams(clock_s=clock_s)
            if heartbeat_s is None
            else EventStreams(clock_s=clock_s, heartbeat_s=heartbeat_s)
        )
        self._requests: Reader[SyncRequest] = Reader(SyncRequest)
        self._wishes: Reader[SnapshotRequest] = Reader(SnapshotRequest)
        self._authority: Authority | None = None
        self._held = AsyncExitStack()
        self._connecting = asyncio.Lock()
        self._app = self._make_app()

    def _make_app(self) -> Starlette:
        def route(path: str, method: str, handler: Handler) -> Route:
            return Route(path, self._guarded(path, handler), methods=[method])

        routes = [
            route("/v1/sync", "POST", self._sync),
            route("/v1/snapshot", "POST", self._snapshot),
            route("/v1/events", "GET", self._events),
            route("/health", "GET", self._health),
            route("/openapi.json", "GET", self._openapi),
        ]
        if self.settings.metrics:
            routes.append(route("/metrics", "GET", self._metrics))
        handlers: dict[Any, Any] = {HTTPException: self._no_route}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    # ---- beginning and end ----------------------------------------------------------

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.open()
        yield
        await self.close()

    async def open(self) -> None:
        """Connect to the authority, so that what is wrong with it is told at once.

        Where this application is mounted in another one, the first request does it. Raises
        `ServerError` or `Offline`.
        """
        await self._history()

    async def close(self) -> None:
        """End the event streams, and leave the authority.

        Where this application is mounted in another one, that one's lifespan calls this.
        """
        self.end_streams()
        self._authority = None
        await self._held.aclose()

    def end_streams(self) -> None:
        """End the event streams: a server that is to stop would wait for them for ever."""
        self._streams.close()

    async def _history(self) -> Authority:
        async with self._connecting:
            if self._authority is None:
                self._authority = await self._held.enter_async_context(self._connect())
            return self._authority

    # ---- the routes -----------------------------------------------------------------

    async def _sync(self, request: Request) -> Response:
        bearer = await self._bearer(request)
        message = await read_message(request, self._requests, self.settings)
        check_size(self.settings, message)
        history = await self._history()
        with tracer.start_as_current_span("synchrotron.sync") as span:
            answer = await history.sync(bearer.user, message)
            kind = kind_of(answer)
            span.set_attribute("synchrotron.kind", kind)
            span.set_attribute("synchrotron.actions", len(message.actions))
        self.metrics.answered(answer)
        request.state.log = {
            "kind": kind,
            "client": message.exchange.client_id,
            "number": message.exchange.number,
            "actions": len(message.actions),
            "corrections": len(message.corrections),
        }
        return reply(request, answer)

    async def _snapshot(self, request: Request) -> Response:
        bearer = await self._bearer(request)
        wish = await read_message(request, self._wishes, self.settings)
        check_size(self.settings, wish)
        request.state.log = {"client": wish.exchange.client_id, "resumed": wish.resume is not None}
        history = await self._history()
        async with AsyncExitStack() as held:
            held.enter_context(self._open_snapshots.one())
            chunks = history.snapshot(bearer.user, wish)
            await held.enter_async_context(aclosing(chunks))  # type: ignore[type-var]
            with tracer.start_as_current_span("synchrotron.snapshot"):
                first = await anext(chunks)  # what is refused is refused before the stream begins
            return snapshot_response(
                first, chunks, coding_for(request), held.pop_all(), self.settings.body_timeout_s
            )

    async def _events(self, request: Request) -> Response:
        bearer = await self._bearer(request)
        if self._streams.closed:
            raise Offline("the server is about to stop")
        history = await self._history()
        async with AsyncExitStack() as held:
            held.enter_context(self._open_streams.one(bearer.user))
            held.enter_context(self.metrics.streams.track_inprogress())
            commits = history.commits(bearer.user)
            await held.enter_async_context(aclosing(commits))  # type: ignore[type-var]
            return self._streams.response(commits, bearer.until_s, held.pop_all())

    async def _health(self, _: Request) -> Response:
        await (await self._history()).check()
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(document())

    async def _bearer(self, request: Request) -> Bearer:
        bearer = await self._tokens.check(request.headers.get("authorization", ""))
        self._rates.take(bearer.user)
        return bearer

    # ---- what goes wrong ------------------------------------------------------------

    def _guarded(self, route: str, handler: Handler) -> Handler:
        """The handler, with its errors as responses, its figures and its line in the log."""

        async def guarded(request: Request) -> Response:
            begin_s = time.perf_counter()
            request.state.log = {}
            try:
                response = await handler(request)
            except ClientDisconnect:
                response = self._problem("timeout", "the request broke off")
            except Exception as error:
                response = self._response_to(error)
                request.state.log["cause"] = str(error)
            seconds = time.perf_counter() - begin_s
            self.metrics.requests.labels(route, response.status_code).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            self._log(route, response.status_code, seconds, request.state.log)
            return response

        return guarded

    def _log(self, route: str, status: int, seconds: float, more: dict[str, Any]) -> None:
        fields = {"route": route, "status": status, "ms": round(seconds * 1000, 2), **more}
        level = logging.DEBUG if route in ("/health", "/metrics") else logging.INFO
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.log(level, "%s", text, extra={"fields": fields})

    def _response_to(self, error: Exception) -> Response:
        match error:
            case TokenRefused():
                return self._problem("unauthorized", f"the token is not accepted: {error}")
            case Unreadable() | ProtocolError():
                return self._problem("malformed", str(error))
            case UnknownFormat():
                return self._problem("format", str(error))
            case LimitExceeded():
                return self._limit(error)
            case Offline() | ServerError() | KeysUnavailable():
                return self._problem("unavailable", str(error), retry_after_s=UNAVAILABLE_RETRY_S)
            case TimeoutError():
                wait = self.settings.body_timeout_s
                return self._problem("timeout", f"the body did not arrive within {wait:g} s")
            case _:
                logger.error("a request failed", exc_info=error)
                return self._problem("failed", "the server failed; its log says why")

    def _limit(self, error: LimitExceeded) -> Response:
        return self._problem(
            "limit",
            f"a limit of this server is exceeded: {error}",
            name=error.name,
            retry_after_s=error.retry_after_s,
            status=429 if error.retry_after_s is not None else None,
        )

    def _problem(
        self,
        kind: ProblemKind,
        message: str,
        *,
        name: str | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> Response:
        headers = {"cache-control": "no-store"}
        if kind == "unauthorized":
            headers["www-authenticate"] = 'Bearer error="invalid_token"'
        if retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(retry_after_s))
        problem = Problem(
            kind=kind,
            message=message,
            now_ms=int(self._clock_s() * 1000),
            name=name,
            retry_after_ms=None if retry_after_s is None else math.ceil(retry_after_s * 1000),
        )
        content = {f: v for f, v in _fields(problem).items() if v is not None}
        return JSONResponse(content, status or STATUS[kind], headers=headers)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == STATUS["method"]:
            return self._problem("method", f"{request.url.path} does not take {request.method}")
        return self._problem("not found", f"there is no {request.url.path} here")


def _fields(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in problem.__struct_fields__}


class _Callable(ModuleType):
    """`synchrotron.server.asgi(…)` calls the function, though Python takes it for this module."""

    __call__ = staticmethod(asgi)


sys.modules[__name__].__class__ = _Callable
