"""Every way to a server that there is, each with a history of its own behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.twin import described
from tests.replica import shop
from tests.server.running import SECRET, Running, running, token

from synchrotron.client.http import HttpTransport
from synchrotron.replica.transport import Transport
from synchrotron.server.asgi import asgi
from synchrotron.testing import MemoryServer

EVERYONE = {"alice": {"all", "project:p"}, "bob": {"all"}, "carol": {"other"}}


class Backend(Protocol):
    """What stands behind the transports, and what it holds."""

    def connect(self, user: str) -> Transport: ...

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def accepted(self) -> int: ...


class InProcess:
    """The history in memory, in this process."""

    def __init__(self, opened: ExitStack) -> None:
        self._memory = MemoryServer(shop.app, EVERYONE)

    def connect(self, user: str) -> Transport:
        return self._memory.connect(user)

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self._memory.rows(table)

    def accepted(self) -> int:
        return len(self._memory.history)


class OverHttp(InProcess):
    """The same history, behind HTTP."""

    def __init__(self, opened: ExitStack) -> None:
        super().__init__(opened)
        self._opened = opened
        self._url = opened.enter_context(running(self._memory)).url

    def connect(self, user: str) -> Transport:
        return http_transport(self._opened, self._url, user)


class OnPostgres:
    """The history in PostgreSQL, in this process."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._database = new_database(described(shop.app, given=True))
        opened.callback(drop_database, self._database)
        for user, audiences in EVERYONE.items():
            for audience in audiences:
                self._sql("INSERT INTO given_members VALUES (%s, %s)", user, audience)
        self._sql("SELECT synchrotron.note_members()")
        self._start()

    def _start(self) -> None:
        self._served = Served(self._database)
        self._opened.callback(self._served.close)

    def connect(self, user: str) -> Transport:
        return self._served.connect(user)

    def _sql(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        return execute(self._database, statement, *parameters)

    def rows(self, table: str) -> list[dict[str, Any]]:
        found = self._sql(f"SELECT row_to_json(t) FROM public.{table} AS t ORDER BY id")
        return [dict(row) for (row,) in found]  # type: ignore[call-overload]

    def accepted(self) -> int:
        [(count,)] = self._sql("SELECT count(*) FROM synchrotron.actions")
        assert isinstance(count, int)
        return count


class OnPostgresOverHttp(OnPostgres):
    """The history in PostgreSQL, behind HTTP: as it is served."""

    def _start(self) -> None:
        serving = Running(asgi(self._database, jwt_secret=SECRET))
        self._url = self._opened.enter_context(serving).url

    def connect(self, user: str) -> Transport:
        return http_transport(self._opened, self._url, user)


def http_transport(opened: ExitStack, url: str, user: str) -> Transport:
    transport = HttpTransport(url, token(user))
    opened.callback(transport.close)
    return transport


BACKENDS: dict[str, Callable[[ExitStack], Backend]] = {
    "in process": InProcess,
    "http": OverHttp,
    "postgres": OnPostgres,
    "postgres over http": OnPostgresOverHttp,
}
