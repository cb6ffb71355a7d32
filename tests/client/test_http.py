"""The transport over HTTP: tokens, lost connections, and what a server refuses."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from typing import Any, ClassVar

import pytest
from aiohttp import ClientResponse, web
from tests.replica import shop
from tests.replica.shop import create_counter
from tests.server.running import Running, eventually, free_port, running, token

from synchrotron import Replica
from synchrotron.client.http import HttpTransport
from synchrotron.client.token import user_of
from synchrotron.core.messages import SnapshotChunk, SnapshotRequest, SyncAnswer, SyncRequest
from synchrotron.errors import (
    Blocked,
    Closed,
    Offline,
    ProtocolError,
    Unauthorized,
    UsageError,
    WrongUser,
)
from synchrotron.testing import MemoryServer

EVERYONE = {"alice": {"all"}, "bob": {"all"}}
EXPIRED = token("alice", valid_s=-100)


@pytest.fixture
def memory() -> MemoryServer:
    return MemoryServer(shop.app, EVERYONE)


@pytest.fixture
def served(memory: MemoryServer) -> Iterator[Running]:
    with running(memory) as serving:
        yield serving


def synchrotron_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("synchrotron")]


# ---- tokens ----------------------------------------------------------------------------


def test_the_user_is_read_from_the_token() -> None:
    assert user_of(token("alice")) == "alice"
    assert [user_of(t) for t in ("opaque", "a.b.c", "a.e30.c", "")] == [None] * 4


def test_a_token_is_a_text_or_a_function_or_an_async_function(served: Running) -> None:
    def plain() -> str:
        return token("alice")

    async def later() -> str:
        await asyncio.sleep(0)
        return token("alice")

    for i, source in enumerate((token("alice"), plain, later)):
        with shop.app.open(":memory:", server=served.url, token=source, user="alice") as a:
            a.run(create_counter, id=f"{i}")
            assert a.sync().uploaded == 1


def test_an_async_token_works_inside_a_running_event_loop(served: Running) -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return token("alice")

    async def work() -> None:
        with shop.app.open(":memory:", server=served.url, token=later) as a:
            a.sync()
            a.run(create_counter, id="x")
            assert a.sync().uploaded == 1

    asyncio.run(work())


@pytest.mark.spec("M4")
def test_a_refused_token_is_replaced_and_the_request_sent_again(served: Running) -> None:
    given = [EXPIRED, token("alice"), token("alice", valid_s=7200)]
    with shop.app.open(":memory:", server=served.url, token=lambda: given.pop(0)) as a:
        a.sync()
        a.run(create_counter, id="x")
        a.sync()
        assert len(given) == 1, "and is kept while it is good"


@pytest.mark.spec("M4")
@pytest.mark.parametrize("source", [EXPIRED, lambda: EXPIRED])
def test_a_refused_token_parks_nothing_and_the_queue_waits(
    served: Running, memory: MemoryServer, source: Any
) -> None:
    with shop.app.open(":memory:", server=served.url, token=source, user="alice") as a:
        run = a.run(create_counter, id="x")
        blocked: list[str] = []
        a.on("blocked", blocked.append)
        for _ in range(2):
            with pytest.raises(Unauthorized, match="expired"):
                a.sync()
        assert a.state.startswith("blocked: ") and "expired" in a.state
        assert len(blocked) == 2
        assert (run.outcome.state, a.parked()) == ("pending", [])
    assert memory.history == []


def test_a_function_that_had_no_good_token_is_asked_again_next_time(served: Running) -> None:
    given = [EXPIRED, EXPIRED, token("alice")]
    with shop.app.open(":memory:", server=served.url, token=lambda: given.pop(0)) as a:
        with pytest.raises(Unauthorized):
            a.sync()
        a.sync()
        assert a.state == "in step"


@pytest.mark.spec("M4")
def test_a_file_is_of_one_user_and_another_users_token_is_refused(
    served: Running, memory: MemoryServer, tmp_path: Any
) -> None:
    file = tmp_path / "a.db"
    with shop.app.open(file, server=served.url, token=token("alice")) as a:
        a.sync()
    with pytest.raises(WrongUser, match="belongs to user 'alice', not 'bob'"):
        shop.app.open(file, server=served.url, token=token("bob"))
    with pytest.raises(WrongUser):
        shop.app.open(":memory:", server=served.url, token=token("bob"), user="alice")
    # With a function it is known when it is called, and before anything is sent.
    clients = dict(memory._state.clients)
    with shop.app.open(file, server=served.url, token=lambda: token("bob")) as a:
        a.run(create_counter, id="x")
        with pytest.raises(WrongUser):
            a.sync()
        assert a.state.startswith("blocked: ")
    assert memory._state.clients == clients


def test_a_function_that_gives_another_users_token_later_is_refused(
    served: Running, memory: MemoryServer
) -> None:
    given = [EXPIRED, token("bob")]
    with shop.app.open(":memory:", server=served.url, token=lambda: given.pop(0)) as a:
        with pytest.raises(WrongUser, match="of user 'bob', this replica of 'alice'"):
            a.sync()
    assert memory._state.clients == {}


def test_an_application_opens_offline_without_asking_for_a_token() -> None:
    def no_network() -> str:
        raise AssertionError("asked")

    url = f"http://127.0.0.1:{free_port()}"
    with shop.app.open(":memory:", server=url, token=no_network, user="alice") as a:
        a.run(create_counter, id="x")
        assert not synchrotron_threads()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"server": "sync.example", "token": "t"}, "no address"),
        ({"server": "ftp://sync.example", "token": "t"}, "no address"),
        ({"server": "https://sync.example"}, "with token="),
        ({"token": "t"}, "with server="),
        ({"server": "https://a.example", "token": "t", "transport": object()}, "one way"),
    ],
)
def test_a_call_that_cannot_work_is_refused(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        shop.app.open(":memory:", **options)


# ---- the network -----------------------------------------------------------------------


def test_no_server_is_offline_and_the_queue_waits(memory: MemoryServer) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with shop.app.open(":memory:", server=url, token=token("alice")) as a:
        run = a.run(create_counter, id="x")
        with pytest.raises(Offline, match="no answer from"):
            a.sync()
        assert (a.state, run.outcome.state) == ("offline", "pending")
        serving = running(memory)
        serving.serving.config.port = port
        with serving:
            a.sync()
        assert run.outcome.state == "accepted"


def test_closing_gives_up_what_is_under_way_and_ends_the_thread() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        a = shop.app.open(":memory:", server=url, token=token("alice"))
        errors: list[BaseException] = []

        def sync() -> None:
            try:
                a.sync()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=sync)
        thread.start()
        while not synchrotron_threads():
            time.sleep(0.001)
        time.sleep(0.05)
        begin_s = time.monotonic()
        a.close()
        thread.join(10)
        assert time.monotonic() - begin_s < 5
        assert [type(error) for error in errors] == [Closed]
        assert not synchrotron_threads()


def test_a_snapshot_that_breaks_off_is_resumed(memory: MemoryServer) -> None:
    """The connection is cut in the middle of the stream, by a proxy between the two."""
    with shop.app.open(":memory:", transport=memory.connect("alice")) as a:
        for i in range(1500):
            a.run(create_counter, id=f"{i:04}")
        a.sync()

    class Cut(HttpTransport):
        lines: int | None = 2
        resumed: tuple[bool, ...] = ()

        def snapshot(self, request: SnapshotRequest) -> Iterator[SnapshotChunk]:
            self.resumed += (request.resume is not None,)
            return super().snapshot(request)

        def _lines(self, response: ClientResponse) -> Iterator[bytes]:
            return islice(super()._lines(response), self.lines)

    with running(memory) as serving:
        broken = Cut(serving.url, token("bob"))
        try:
            with shop.app.open(":memory:", transport=broken) as b:
                with pytest.raises(Offline, match="broke off"):
                    b.sync()
                broken.lines = None
                b.sync()
                assert broken.resumed == (False, True)
                assert len(b.query("SELECT id FROM counter")) == 1500
        finally:
            broken.close()


def test_a_snapshot_waits_for_its_turn_where_others_are_streamed(memory: MemoryServer) -> None:
    class Patient(HttpTransport):
        waited_ms: tuple[int, ...] = ()

        def wait(self, ms: int) -> None:
            self.waited_ms += (ms,)
            if len(self.waited_ms) == 2:
                serving.app._open_snapshots._max = 1  # there is room again

    with running(memory, snapshots_max=1) as serving:
        serving.app._open_snapshots._max = 0
        transport = Patient(serving.url, token("alice"))
        with shop.app.open(":memory:", transport=transport) as a:
            assert a.sync().rebased == 1
        assert transport.waited_ms == (5000, 5000)
        transport.close()


# ---- pages that are asked for ahead ------------------------------------------------------


class Ahead(HttpTransport):
    """Notes what is asked ahead; `before` is done before each of these."""

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        super().__init__(url, token, user="bob")
        self.begun: list[SyncRequest] = []
        self.before: Callable[[], object] = lambda: None

    def begin(self, request: SyncRequest) -> Callable[[], SyncAnswer]:
        self.begun.append(request)
        self.before()
        return super().begin(request)


@pytest.fixture
def behind() -> Iterator[tuple[Replica, Ahead]]:
    """Bob's replica has six pages to fetch. His second token has expired."""
    memory = MemoryServer(shop.app, EVERYONE, page_events=10)
    tokens = iter([token("bob"), token("bob", valid_s=-100), token("bob")])
    with running(memory) as serving:
        transport = Ahead(serving.url, lambda: next(tokens))
        with (
            shop.app.open(":memory:", transport=transport) as b,
            shop.app.open(":memory:", transport=memory.connect("alice")) as a,
        ):
            b.sync()
            for i in range(55):
                a.run(create_counter, id=f"{i:04}")
            a.sync()
            yield b, transport
        transport.close()


def test_pages_are_asked_for_ahead(behind: tuple[Replica, Ahead]) -> None:
    b, transport = behind
    assert b.sync().received == 55
    assert [request.question.cursor for request in transport.begun] == [10, 20, 30, 40, 50]


def test_a_token_that_is_refused_ahead_is_replaced(behind: tuple[Replica, Ahead]) -> None:
    b, transport = behind

    def forget() -> None:
        if len(transport.begun) == 2:
            transport._token.forget(transport._token.present())

    transport.before = forget
    assert b.sync().received == 55


def test_what_is_asked_ahead_can_be_given_up(behind: tuple[Replica, Ahead]) -> None:
    b, transport = behind
    wait = transport.begin(b._engine.ask(upload=False))
    transport.cancel()
    with contextlib.suppress(Offline):  # unless the answer was faster
        wait()
    assert not transport._loop._waiting
    assert b.sync().received == 55


# ---- what a server refuses -------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"actions_max": 2}, {"body_bytes_max": 3_000}])
def test_where_a_server_takes_less_at_once_an_upload_goes_in_smaller_parts(
    memory: MemoryServer, limit: dict[str, int]
) -> None:
    with running(memory, **limit) as serving:
        with shop.app.open(":memory:", server=serving.url, token=token("alice")) as a:
            a.sync()
            client = a._engine.state().client_id
            for i in range(9):
                a.run(create_counter, id=f"{i}")
            a.sync()
            assert [outcome.state for outcome in a.outcomes()] == ["accepted"] * 9
            assert {outcome.id.partition("-")[0] for outcome in a.outcomes()} == {client}
    assert len(memory.history) == 9


@pytest.mark.spec("M5", "R4")
def test_an_action_that_is_too_large_by_itself_is_parked_and_the_rest_goes_on(
    memory: MemoryServer,
) -> None:
    with running(memory, body_bytes_max=20_000) as serving:
        with (
            shop.app.open(":memory:", server=serving.url, token=token("alice")) as a,
            shop.app.open(":memory:", server=serving.url, token=token("bob")) as b,
        ):
            b.run(create_counter, id="bob's")
            b.sync()
            a.sync()
            a.run(create_counter, id="before")
            large = a.run(create_counter, id="x" * 30_000)
            a.run(create_counter, id="after")
            b.run(create_counter, id="bob's next")
            b.sync()
            a.sync()
            [parked] = a.parked()
            assert (parked.id, parked.reason) == (large.id, "invalid")
            assert "limit 'body_bytes_max'" in (parked.detail or "")
            ids = {row["id"] for row in a.query("SELECT id FROM counter")}
            assert ids == {"before", "after", "bob's", "bob's next"}
            a.discard(large.id)
            assert a.sync().uploaded == 0
    assert len(memory.history) == 4


def test_more_parts_than_a_server_takes_block_and_are_named(memory: MemoryServer) -> None:
    with running(memory, actions_max=1, parts_max=2) as serving:
        with shop.app.open(":memory:", server=serving.url, token=token("alice")) as a:
            a.sync()
            for i in range(3):
                a.run(create_counter, id=f"{i}")
            with pytest.raises(Blocked, match="limit 'parts_max' is exceeded"):
                a.sync()
            assert "parts_max" in a.state
            assert not a.parked()


def test_a_proxy_that_takes_less_at_once_is_given_smaller_parts(memory: MemoryServer) -> None:
    with running(memory) as serving, proxy(serving.url, 3_000) as url:
        with shop.app.open(":memory:", server=url, token=token("alice")) as a:
            a.sync()
            texts = random.Random(1)
            for i in range(9):
                a.run(create_counter, id=f"{i}{texts.randbytes(300).hex()}")
            large = a.run(create_counter, id=texts.randbytes(5_000).hex())
            a.sync()
            states = [outcome.state for outcome in a.outcomes()]
            assert states == ["accepted"] * 9 + ["parked"]
            assert "HTTP 413" in (large.outcome.detail or "")


@contextlib.contextmanager
def proxy(url: str, bytes_max: int) -> Iterator[str]:
    """Hands requests on, and refuses large ones as nginx does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if len(body) > bytes_max:
                self.answer(413, {"content-type": "text/html"}, b"<h1>413 Too Large</h1>")
                return
            request = urllib.request.Request(url + self.path, body, dict(self.headers.items()))
            with urllib.request.urlopen(request) as response:
                headers = dict(response.headers.items())
                self.answer(response.status, headers, response.read())

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name in ("content-type", "content-encoding"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_limit_of_rate_is_waited_for(memory: MemoryServer) -> None:
    with running(memory, requests_per_minute=120) as serving:
        transport = HttpTransport(serving.url, token("alice"))
        waited_ms: list[int] = []
        wait = transport.wait

        def watched(ms: int) -> None:
            waited_ms.append(ms)
            wait(ms)

        transport.wait = watched  # type: ignore[method-assign]
        with shop.app.open(":memory:", transport=transport) as a:
            a.sync()
            serving.app._rates._full_at_s["alice"] = time.time() + 60
            run = a.run(create_counter, id="x")
            assert a.sync().uploaded == 1
            assert a.outcomes()[0].id == run.id, "a limit makes no other file of this one (O6)"
            assert waited_ms and max(waited_ms) <= 600
            serving.app._rates._full_at_s["alice"] = time.time() + 60
            waited_ms.clear()
            assert list(transport.snapshot(a._engine.ask_snapshot()))
            assert waited_ms and max(waited_ms) <= 600
        transport.close()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, "not here", ProtocolError),
        (302, "", ProtocolError),
        (502, "bad gateway", Offline),
        (503, "", Offline),
        (429, "slow down", Offline),
        (200, "<html>", ProtocolError),
        (200, '{"kind":"sorry"}', ProtocolError),
    ],
)
def test_what_is_no_answer_of_a_server_is_told_so(
    status: int, body: str, error: type[Exception]
) -> None:
    async def strange(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type="text/html")

    with other_server(strange) as url:
        with shop.app.open(":memory:", server=url, token=token("alice")) as a:
            with pytest.raises(error):
                a._syncing.transport.exchange(a._engine.ask())
            with pytest.raises(error):
                a.sync()


class other_server:
    """A server of any kind, in a thread."""

    def __init__(self, handler: Callable[[web.Request], Any]) -> None:
        self._handler = handler

    def __enter__(self) -> str:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def start() -> tuple[web.AppRunner, int]:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._handler)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return runner, runner.addresses[0][1]

        self._runner, port = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


# ---- events ----------------------------------------------------------------------------


def test_a_stream_counts_as_heard_with_its_first_event() -> None:
    """A proxy may let the stream begin, and hold back what it tells."""
    begun, let_through = threading.Event(), threading.Event()

    async def hold_back(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"retry: 1000\n\n: still here\n\n")
        begun.set()
        while not let_through.is_set():
            await asyncio.sleep(0.01)
        await stream.write(b'id: 7\nevent: commit\ndata: {"horizon":7}\n\n')
        return stream

    told: list[int | bool] = []
    with other_server(hold_back) as url:
        transport = HttpTransport(url, token("alice"))
        stop = transport.listen(told.append, told.append)
        assert begun.wait(10)
        time.sleep(0.2)
        before = list(told)
        let_through.set()
        eventually(lambda: len(told) >= 2)
        stop()
        transport.close()
    assert (before, told[:2]) == ([], [True, 7])


# ---- proxies ---------------------------------------------------------------------------


class Proxy(BaseHTTPRequestHandler):
    """Refuses everything, and remembers what it was asked for and with which credentials."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers["proxy-authorization"]))
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        """Nothing is written to stderr."""


@pytest.mark.parametrize("bypassed", [False, True])
def test_the_environments_proxy_is_used_unless_it_names_the_server(
    bypassed: bool, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    Proxy.asked.clear()
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://ann:secret@127.0.0.1:{proxy.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1" if bypassed else "elsewhere.example")
        with shop.app.open(":memory:", server=served.url, token=token("alice")) as a:
            if bypassed:
                assert a.sync().rebased == 1
            else:
                with pytest.raises(Offline, match="answers 503"):
                    a.sync()
        proxy.shutdown()
    credentials = "Basic " + b64encode(b"ann:secret").decode()
    assert Proxy.asked == ([] if bypassed else [(f"{served.url}/v1/snapshot", credentials)])
