"""Event streams, and a server that stops while they are open."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest
from tests.replica import shop
from tests.replica.shop import create_counter, give_badge
from tests.server.running import SECRET, Running, ask, eventually, free_port, running, token

from synchrotron.core.messages import encode
from synchrotron.server.asgi import Server, asgi
from synchrotron.server.settings import Settings
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_authority import MemoryAuthority

Serve = Callable[..., Running]


@contextmanager
def events(served: Running, user: str = "alice", **claims: Any) -> Iterator[Iterator[str]]:
    """The lines of an event stream."""
    headers = {"Authorization": f"Bearer {token(user, **claims)}"}
    with urlopen(Request(served.url + "/v1/events", headers=headers), timeout=20) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (line.decode().strip() for line in response)


def commit(memory: MemoryServer, user: str, id: str, scope: str = "all") -> None:
    with shop.app.open(":memory:", transport=memory.connect(user)) as replica:
        replica.run(create_counter, id=id, scope=scope)
        replica.sync()


def data(lines: Iterator[str]) -> str:
    return next(line for line in lines if line.startswith("data:"))


def test_a_stream_begins_with_the_horizon_and_tells_each_commit_that_the_user_can_see(
    served: Running, memory: MemoryServer
) -> None:
    commit(memory, "alice", "before")
    with events(served) as lines, events(served, "carol") as strangers:
        assert (data(lines), data(strangers)) == ('data: {"horizon":1}',) * 2
        commit(memory, "bob", "x")
        assert data(lines) == 'data: {"horizon":2}'
        commit(memory, "carol", "y", scope="other")
        assert data(strangers) == 'data: {"horizon":3}', "of the second she was not told"
        commit(memory, "bob", "z")
        assert data(lines) == 'data: {"horizon":4}', "nor he of the third"


def test_a_stream_ends_with_its_token(served: Running) -> None:
    begin_s = time.monotonic()
    with events(served, valid_s=2) as lines:
        assert list(lines)[-1] == ""
    assert time.monotonic() - begin_s < 10


def test_a_silent_stream_shows_that_it_lives(memory: MemoryServer) -> None:
    server = Server(
        Settings(jwt_secret=SECRET),
        asgi(authority=MemoryAuthority(memory), jwt_secret=SECRET)._connect,
        heartbeat_s=0.05,
    )
    with Running(server) as served, events(served) as lines:
        assert [line for line in (next(lines) for _ in range(12)) if line.startswith(":")]


@pytest.mark.spec("M6")
def test_a_server_that_is_to_stop_ends_its_streams_and_stops(
    served: Running, memory: MemoryServer
) -> None:
    with events(served) as one, events(served, "bob") as other:
        data(one), data(other)
        assert served.stop() < 4, "it waited for its clients to hang up"
        assert list(one)[-1] == list(other)[-1] == ""


def test_streams_that_are_not_ended_would_hold_a_server_up(memory: MemoryServer) -> None:
    """Without this, the test above would show nothing."""
    serving = running(memory)
    serving.app.end_streams = lambda: None  # type: ignore[method-assign]
    serving.serving.config.timeout_graceful_shutdown = 1
    with serving, events(serving) as lines:
        data(lines)
        assert serving.stop() > 0.9


SERVER = """
import sys
from tests.replica import shop
from synchrotron.server.asgi import asgi
from synchrotron.server.serving import Serving, log_to_stderr
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_authority import MemoryAuthority
log_to_stderr(json=True)
memory = MemoryServer(shop.app, {"alice": {"all"}})
Serving(asgi(authority=MemoryAuthority(memory)), "127.0.0.1", int(sys.argv[1])).run()
"""


@pytest.mark.spec("M6")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_signal_ends_a_serving_process_while_streams_are_open() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        env={**os.environ, "SYNCHROTRON_JWT_SECRET": SECRET, "PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        text=True,
    )
    request = Request(
        f"http://127.0.0.1:{port}/v1/events", headers={"Authorization": f"Bearer {token('alice')}"}
    )
    deadline_s = time.monotonic() + 20
    while True:
        try:
            response = urlopen(request, timeout=20)
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
    with response:
        assert response.readline().startswith(b"retry")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=15)
        assert response.read().endswith(b"\n\n")
    assert process.returncode in (0, -signal.SIGTERM)
    assert '"route":"/v1/events","status":200' in log
    assert "Traceback" not in log


def test_a_stopped_application_takes_no_new_streams(memory: MemoryServer) -> None:
    with running(memory) as served:
        served.app.end_streams()
        with pytest.raises(OSError, match="503"), events(served):
            pass


# ---- snapshots -------------------------------------------------------------------------


def wish_of(memory: MemoryServer, rows: int) -> bytes:
    """A request for a snapshot of so many long rows."""
    with shop.app.open(":memory:", transport=memory.connect("alice")) as replica:
        for i in range(rows):
            replica.run(give_badge, name=f"{i}" + "".join(map(chr, range(33, 127))) * 300)
        replica.sync()
    with shop.app.open(":memory:", user="bob") as replica:
        return encode(replica._engine.ask_snapshot())


@contextmanager
def unread_snapshot(served: Running, wish: bytes) -> Iterator[socket.socket]:
    """Ask for a snapshot and read none of it."""
    head = (
        f"POST /v1/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('bob')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(wish)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(head.encode() + wish)
        yield connection


@pytest.mark.spec("M5")
def test_snapshots_at_once_are_limited_and_nobody_holds_one_without_reading(
    serve: Serve, memory: MemoryServer
) -> None:
    wish = wish_of(memory, 1500)
    served = serve(snapshots_max=1, body_timeout_s=1.5)
    open_snapshots = served.app._open_snapshots
    with unread_snapshot(served, wish):
        eventually(lambda: open_snapshots.count == 1)
        headers = {"authorization": f"Bearer {token('alice')}", "content-type": "application/json"}
        with shop.app.open(":memory:", user="alice") as replica:
            other = encode(replica._engine.ask_snapshot())
        status, answered, body = ask(
            served.url + "/v1/snapshot", "POST", data=other, headers=headers
        )
        assert (status, b"snapshots_max" in body, answered["retry-after"]) == (429, True, "5")
        eventually(lambda: open_snapshots.count == 0)  # it was given up
        status, _, _ = ask(served.url + "/v1/snapshot", "POST", data=other, headers=headers)
        assert status == 200
