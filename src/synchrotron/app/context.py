"""The context: an action's only way to data, time, randomness and new ids (A3)."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from synchrotron.app.row import Row
from synchrotron.core.ids import SeededRandom, derive_id
from synchrotron.core.records import ActionRecord
from synchrotron.errors import StatementRefused

if TYPE_CHECKING:  # an extra: see `synchrotron.ext.sqlalchemy`
    from sqlalchemy import Executable
    from sqlalchemy.orm import Session

Parameters = Sequence[Any] | Mapping[str, Any]


class ActionDatabase(Protocol):
    """The database as an action sees it, within the action's transaction."""

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]: ...

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None: ...

    @property
    def tables(self) -> Container[str]:
        """The names of the synced tables."""

    def begin_work(self) -> Work:
        """What SQLAlchemy does in this action."""


class Work(ActionDatabase, Protocol):
    """The database through SQLAlchemy, for one action: takes constructs as well as SQL."""

    @property
    def session(self) -> Session: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Context:
    """What an action is given as its first argument.

    Everything here depends on the action's record and the rows of its database alone,
    so that a replay sees the same. It ends with the action.
    """

    __slots__ = ("_database", "_now", "_ordinals", "_random", "_record", "_work")

    def __init__(self, record: ActionRecord, database: ActionDatabase) -> None:
        self._record = record
        self._database: ActionDatabase | None = database
        self._now: datetime | None = None
        self._random: SeededRandom | None = None
        self._ordinals: dict[str, int] = {}
        self._work: Work | None = None

    @property
    def now(self) -> datetime:
        """The moment of the first run, aware and in UTC.

        Never later than the action's place in the order; it need not rise with the order.
        """
        if self._now is None:
            self._now = self._record.moment()
        return self._now

    @property
    def user(self) -> str:
        """Whose action this is: on a replay, still the user who ran it first."""
        return self._record.user

    @property
    def action_id(self) -> str:
        return self._record.id

    @property
    def random(self) -> random.Random:
        """Random numbers seeded by the action's record (A4)."""
        if self._random is None:
            self._random = SeededRandom(self._record.seed)
        return self._random

    def execute(self, sql: str | Executable, params: Parameters = ()) -> list[Row]:
        """Run one statement; `?` takes a sequence, `:name` a mapping.

        With SQLAlchemy it may be a construct, such as `select(Todo)`. Gives the rows; a
        write gives `[]` unless it has RETURNING. Raises `RefusedInAction` for what no
        action may do, `ConstraintError` where a constraint of the schema refuses.
        """
        database = self._database or self._ended()
        if type(sql) is not str and not isinstance(sql, str):
            database = self._begin_work(database)
        return database.execute(sql, params)  # type: ignore[arg-type]

    def executemany(self, sql: str | Executable, rows: Iterable[Parameters]) -> None:
        """Run one writing statement once for each of `rows`."""
        database = self._database or self._ended()
        if not isinstance(sql, str):
            database = self._begin_work(database)
        database.executemany(sql, rows)  # type: ignore[arg-type]

    @property
    def session(self) -> Session:
        """SQLAlchemy's ORM within this action: what it holds is written at the end.

        `commit()` flushes, `rollback()` takes back what was done since the last commit;
        the action itself is committed when it returns.
        """
        return self._begin_work(self._database or self._ended()).session

    def _begin_work(self, database: ActionDatabase) -> Work:
        if self._work is None:
            # From here on SQL goes through it too, after what the session holds.
            self._work = self._database = database.begin_work()
        return self._work

    def new_id(self, table: str, *key: Any) -> str:
        """A new id for a row of `table`, as a UUID of 36 characters.

        With a `key` the id depends on it, whatever else the action makes; without, on
        how many ids for this table came before it in the action.
        """
        database = self._database or self._ended()
        if table not in database.tables:
            raise StatementRefused(f"new_id: there is no table {table!r} in the schema")
        if key:
            return derive_id(self._record.seed, table, "key", *key)
        ordinal = self._ordinals.get(table, 0)
        self._ordinals[table] = ordinal + 1
        return derive_id(self._record.seed, table, "n", ordinal)

    def _ended(self) -> NoReturn:
        raise StatementRefused(
            f"the context of action {self._record.name} was used after the action ended: "
            "what it needs must be done, and its rows read, before it returns"
        )

    def _end(self) -> None:
        self._database = None
        if self._work is not None:
            self._work.close()
