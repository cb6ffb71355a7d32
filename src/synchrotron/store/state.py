"""Where a replica stands: the one row of `synchrotron_replica`."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from synchrotron.core.clock import FIRST, OrderKey, Timestamp, timestamp_of
from synchrotron.core.ids import Audience, ClientId, Seq


class State(msgspec.Struct):
    """Where a replica stands. Its fields are the columns of `replica.sql`."""

    app: str
    client_id: ClientId
    user: str
    n: int = 0
    clock: OrderKey = FIRST
    clock_offset_ms: int = 0
    cursor: Seq = Seq(0)
    cursor_token: str = ""
    seen: Seq = Seq(0)
    seen_token: str = ""
    floor: OrderKey | None = None
    floor_seq: Seq = Seq(0)
    server_floor: OrderKey | None = None
    audiences: frozenset[Audience] = frozenset()
    pending_from: int = 1
    exchange: int = 0
    tokens: list[str] = []
    bootstrapped: bool = False
    migrations: int = 0
    left_out: bool = False
    tables: str = ""
    local: str = ""

    def knows(self, key: OrderKey) -> None:
        """New order keys will sort after this one (O1)."""
        self.clock = max(self.clock, key)


class Stamp(msgspec.Struct):
    """What a run needs to know to stamp its record."""

    client_id: ClientId
    user: str
    clock_offset_ms: int
    n: int
    """The last n and position used."""
    latest: Timestamp
    """The last clock reading known."""
    migrations: int


_NAMES = [field.name for field in msgspec.structs.fields(State)]
_JSON = {"audiences", "tokens"}
_SELECT = f"SELECT {', '.join(_NAMES)} FROM synchrotron_replica"
_UPDATE = f"UPDATE synchrotron_replica SET {', '.join(f'{name} = ?' for name in _NAMES)}"
_INSERT = (
    f"INSERT INTO synchrotron_replica (one, {', '.join(_NAMES)}) "
    f"VALUES (1, {', '.join('?' for _ in _NAMES)})"
)
# What a run would have to write here is derived from the last run instead: one page less.
# Whatever else enters the log is told to `State.knows`.
_STAMP = """
    SELECT client_id, user, clock_offset_ms,
           max(n, coalesce(last.position, 0)), max(clock, coalesce(last.order_key, '')),
           migrations
    FROM synchrotron_replica LEFT JOIN (
        SELECT position, order_key FROM synchrotron_action ORDER BY position DESC LIMIT 1
    ) AS last
"""


def read_state(connection: apsw.Connection) -> State:
    row = connection.execute(_SELECT).fetchone()
    assert row is not None
    fields = {
        name: msgspec.json.decode(value) if name in _JSON else value
        for name, value in zip(_NAMES, row, strict=True)
    }
    return msgspec.convert(fields, State, strict=False)


def write_state(connection: apsw.Connection, state: State) -> None:
    connection.execute(_UPDATE, _values(state))


def make_state(connection: apsw.Connection, state: State) -> None:
    connection.execute(_INSERT, _values(state))


def read_stamp(connection: apsw.Connection) -> Stamp:
    row = connection.execute(_STAMP).fetchone()
    assert row is not None
    client, user, offset, n, clock, migrations = row
    return Stamp(client, user, offset, n, timestamp_of(clock), migrations)


class Stamps:
    """The latest stamp, kept between runs.

    It is read anew when anything else was committed meanwhile, by this connection or by
    another process; SQLite's data version tells without a statement.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._version: int | None = None
        self._stamp: Stamp | None = None

    def latest(self) -> Stamp:
        """The latest stamp. Call it in a writing transaction."""
        if self._stamp is None or self._version != self._connection.data_version():
            self._stamp = read_stamp(self._connection)
        self._version = None  # until the transaction that uses it is committed
        return self._stamp

    def committed(self, n: int, at: Timestamp) -> None:
        """A run used this n and clock reading, and nothing else was committed since."""
        assert self._stamp is not None
        self._stamp.n, self._stamp.latest = n, at
        self._version = self._connection.data_version()


def _values(state: State) -> list[Any]:
    fields = msgspec.structs.asdict(state)
    fields["audiences"] = msgspec.json.encode(sorted(state.audiences)).decode()
    fields["tokens"] = msgspec.json.encode(state.tokens).decode()
    return [fields[name] for name in _NAMES]
