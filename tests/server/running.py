"""A real server on this machine's loopback, and tokens for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import aiohttp

from synchrotron.server.asgi import Server, asgi
from synchrotron.server.serving import Serving
from synchrotron.server.tokens import sign
from synchrotron.testing.memory_authority import MemoryAuthority
from synchrotron.testing.memory_server import MemoryServer

SECRET = "a secret of more than thirty-two bytes"


def token(user: str, valid_s: float = 3600, secret: str = SECRET, **claims: Any) -> str:
    return sign(secret, user, time.time(), valid_s, **claims)


class Running:
    """Uvicorn in a thread of its own, for as long as a `with` lasts."""

    def __init__(self, app: Server, port: int = 0, grace_s: int = 5) -> None:
        self.app = app
        self.serving = Serving(app, "127.0.0.1", port, grace_s=grace_s)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serving.serve()))

    def __enter__(self) -> Running:
        self._thread.start()
        deadline_s = time.monotonic() + 20
        while not self.serving.started:
            assert self._thread.is_alive() and time.monotonic() < deadline_s
            time.sleep(0.005)
        self.port = self.serving.port
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def stop(self) -> float:
        """Stop as a signal would, and say how long that took, in seconds."""
        begin_s = time.monotonic()
        self.serving.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server does not end"
        return time.monotonic() - begin_s

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def running(server: MemoryServer, **options: Any) -> Running:
    options = {"jwt_secret": SECRET, **options}
    return Running(asgi(authority=MemoryAuthority(server), **options))


def ask(url: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, str], bytes]:
    """One request: status, headers and body, as they came."""

    async def request() -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, url, **options) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.read()

    return asyncio.run(request())


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.005)
