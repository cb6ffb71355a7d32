"""Serving in a process of its own: uvicorn, its shutdown, and its log."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from datetime import UTC, datetime

import msgspec
import uvicorn

from synchrotron.server.asgi import Server

GRACE_S = 20
"""So long a request may still take once the server is to stop."""

GARBAGE_OBJECTS = 500_000
"""So many new ones are looked through for garbage at a time."""


class Serving(uvicorn.Server):
    """Uvicorn, which ends event streams when it is to stop and waits for the rest."""

    def __init__(self, server: Server, host: str, port: int, *, grace_s: int = GRACE_S) -> None:
        super().__init__(
            uvicorn.Config(
                server,
                host=host,
                port=port,
                log_config=None,
                access_log=False,  # the server's own line says more
                server_header=False,
                timeout_graceful_shutdown=grace_s,
            )
        )
        self._server = server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays. A large upload makes some hundred thousand objects that refer
        # to no one in a circle: to look through them again and again took a sixth of its time.
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._server.end_streams()
        await super().shutdown(sockets)

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for."""
        [listening] = self.servers
        port: int = listening.sockets[0].getsockname()[1]
        return port


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **(fields if fields is not None else {"message": record.getMessage()}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def log_to_stderr(*, json: bool) -> None:
    """One line for each request: as JSON, or to be read."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
