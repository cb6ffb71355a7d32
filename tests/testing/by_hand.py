"""Messages made by hand, and servers to send them to."""

import itertools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from tests.servers import new_server

from synchrotron.app.schema import read_schema
from synchrotron.core.clock import OrderKey, Timestamp, order_key, to_datetime
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq, action_id
from synchrotron.core.messages import (
    Behind,
    Download,
    Event,
    Exchange,
    Offer,
    Ok,
    Question,
    RowPatch,
    SentAction,
    SentCorrection,
    SnapshotHead,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.core.records import ActionRecord
from synchrotron.testing.memory_server import MemoryServer

SCHEMA = """
    CREATE TABLE project (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || id) STORED
    );
    CREATE TABLE project_member (
        id TEXT PRIMARY KEY,
        project_id TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
        user_id TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
    );
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        project_id TEXT NOT NULL,
        n INTEGER NOT NULL DEFAULT 0 CHECK (n >= 0),
        place INTEGER UNIQUE,
        audience_key TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED
    );
    CREATE TABLE note (
        id TEXT PRIMARY KEY,
        due TIMESTAMP,
        cost NUMERIC(10,2),
        done BOOLEAN NOT NULL DEFAULT FALSE,
        audience_key TEXT NOT NULL
    );
"""
_tokens = itertools.count(1)
NOW_MS = 1_700_000_000_000
P1, P2 = Audience("project:p1"), Audience("project:p2")
BOTH = {"alice": {P1, P2}, "bob": {P1, P2}}
APP = SimpleNamespace(
    schema=read_schema(SCHEMA),
    audiences="SELECT user_id, audience_key FROM project_member",
    migrations=(),
)


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def given(audiences: Any = BOTH, **options: Any) -> MemoryServer:
    """A server whose memberships are given as sets, and whose clock stands still."""
    return new_server(APP, audiences, options.pop("clock", Clock()), **options)


# ---- messages by hand --------------------------------------------------------------


class File:
    """One database file: what it says of itself, and what it was told."""

    def __init__(self, server: MemoryServer, user: str, letter: str) -> None:
        self.transport = server.connect(user)
        self.user, self.client = user, ClientId(letter * 24)
        self.number, self.n = 0, 0
        self.earlier: list[str] = []
        self.cursor, self.token = Seq(0), ""
        self.floor: OrderKey | None = None
        self.audiences: list[Audience] = []

    def key(self, ms: int) -> OrderKey:
        """An order key `ms` milliseconds after the beginning."""
        return order_key(Timestamp(NOW_MS + ms, 0), self.client)

    def action(
        self, ms: int, *patches: RowPatch, n: int | None = None, **fields: Any
    ) -> SentAction:
        self.n = self.n + 1 if n is None else n
        record = ActionRecord(
            **{
                "id": action_id(self.client, self.n),
                "seed": f"{self.n:032x}",
                "name": "act",
                "version": 1,
                "args": {},
                "now": to_datetime(NOW_MS + ms),
                "order_key": self.key(ms),
                "client_id": self.client,
                "user": self.user,
                **fields,
            }
        )
        return SentAction(record, list(patches))

    def exchange(self) -> Exchange:
        self.number += 1
        token = f"{next(_tokens):024x}"
        exchange = Exchange(self.client, self.number, token, list(self.earlier))
        self.earlier.append(token)
        return exchange

    def question(self) -> Question:
        return Question(self.cursor, self.token, self.floor, list(self.audiences))

    def request(
        self,
        *actions: SentAction,
        corrections: Iterable[SentCorrection] = (),
        **fields: Any,
    ) -> SyncRequest:
        return SyncRequest(
            self.exchange(),
            self.question(),
            list(actions),
            list(corrections),
            **{"events_max": 1_000_000, **fields},  # the pages are the server's choice
        )

    def send(self, *actions: SentAction, take: bool = True, **fields: Any) -> SyncAnswer:
        """One exchange; what it gives is taken in unless the reply is lost."""
        answer = self.transport.exchange(self.request(*actions, **fields))
        if take and isinstance(answer, Ok | Behind):
            self.take(answer.download)
        return answer

    def take(self, download: Download) -> None:
        self.cursor, self.token = download.horizon, download.token
        self.audiences = download.audiences

    def ok(self, *actions: SentAction, **fields: Any) -> Ok:
        answer = self.send(*actions, **fields)
        assert isinstance(answer, Ok), answer
        return answer

    def pull(self) -> Download:
        return self.ok().download

    def snapshot(self, *offers: Offer, **fields: Any) -> list[Any]:
        request = SnapshotRequest(self.exchange(), list(offers), **fields)
        return list(self.transport.snapshot(request))

    def start_from_snapshot(self) -> SnapshotHead:
        head = self.snapshot()[0]
        assert isinstance(head, SnapshotHead)
        self.cursor, self.token, self.floor = head.horizon, head.token, head.floor
        self.audiences = head.audiences
        return head


def insert(key: str, n: int = 0, place: int | None = None, in_: Audience = P1) -> RowPatch:
    project = in_.removeprefix("project:")
    return RowPatch(
        "item", [key], in_, "insert", {"id": key, "n": n, "place": place, "project_id": project}
    )


def update(key: str, in_: Audience = P1, **values: Any) -> RowPatch:
    return RowPatch("item", [key], in_, "update", values)


def delete(key: str, in_: Audience = P1) -> RowPatch:
    return RowPatch("item", [key], in_, "delete")


def removal(key: str, in_: Audience = P1) -> RowPatch:
    return RowPatch("item", [key], in_, None)


def correct(action: SentAction | ActionId, patch: RowPatch) -> SentCorrection:
    id = action.record.id if isinstance(action, SentAction) else action
    return SentCorrection(id, patch)


def row(table: str, audience: str, **values: Any) -> RowPatch:
    key = [values["id"]]
    return RowPatch(table, key, Audience(audience), "insert", values)


def membership(id: str, project: str, user: str) -> RowPatch:
    return row("project_member", f"project:{project}", id=id, project_id=project, user_id=user)


def create_project(file: File, ms: int, project: str, *members: str) -> SentAction:
    return file.action(
        ms,
        row("project", f"project:{project}", id=project, name=project),
        *(membership(f"{project}-{user}", project, user) for user in members),
    )


def numbers(server: MemoryServer) -> dict[str, int]:
    return {item["id"]: item["n"] for item in server.rows("item")}


def ids(events: Iterable[Event]) -> list[ActionId]:
    return [event.record.id for event in events]
