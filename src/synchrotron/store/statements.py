"""Statements that come from outside: checked once, then run.

Before a statement runs for the first time on a connection it is compiled for inspection:
that it is one statement, what it touches (judged by the connection's rules), and which of
its columns are plain columns of synced tables, to be read back as their Python types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

from synchrotron.app import ddl
from synchrotron.app.context import Parameters
from synchrotron.app.extension import sqlalchemy_extension
from synchrotron.app.row import Row
from synchrotron.app.schema import Schema
from synchrotron.app.types import bind, formless_text
from synchrotron.errors import NotReadOnly, QueryError, StatementRefused, SynchrotronError
from synchrotron.store.footprint import NOTHING, Footprints, Tables
from synchrotron.store.guard import WRITES, Rules

if TYPE_CHECKING:
    from sqlalchemy import Executable

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
CACHE_MAX = 1024


class Statement(NamedTuple):
    """What is known of a statement's text."""

    positions: dict[str, int]
    """Column name to position; empty where it gives no rows."""
    converters: tuple[Callable[[Any], Any] | None, ...] | None
    """By position, for plain columns whose Python form differs; None if there are none."""
    reads: frozenset[str]
    """The tables it reads."""
    writes: frozenset[str]
    rests_on: Tables
    """The synced tables that decide what it does, where that is asked for."""
    by_key: bool
    """It changes one row by its key; where it finds none, its table decides, too."""


class Inspection(NamedTuple):
    """What compiling a statement showed."""

    text: str
    """The first statement of what was given."""
    columns: tuple[Any, ...]
    """SQLite's description: name, declared type, database, table and origin column each."""
    readonly: bool
    reads: frozenset[str]
    writes: frozenset[str]


class Inspector:
    """Compiles statements on one connection without running them.

    Its authorizer is installed for good, since setting one expires every prepared
    statement; outside an inspection it allows everything.
    """

    def __init__(self, connection: apsw.Connection, virtual: Iterable[str] = ()) -> None:
        self.connection = connection
        # A virtual table reads its own shadow tables when it is first compiled: not while
        # the rules look, which could not tell that from a statement's own reading.
        self._connect = [f'SELECT 1 FROM "{name}" LIMIT 0' for name in virtual]
        self._rules: Rules | None = None
        self._refusal: SynchrotronError | None = None
        self._reads: set[str] = set()
        self._writes: set[str] = set()
        connection.authorizer = self._authorize

    def inspect(self, sql: str, bindings: Any, rules: Rules) -> Inspection:
        """Raises what the rules refuse, and `QueryError` where there is no statement."""
        for statement in self._connect:
            self.connection.execute(statement)
        found: list[tuple[str, Any, bool]] = []

        def first_step(cursor: apsw.Cursor, text: str, _: Any) -> bool:
            found.append((text, cursor.description_full, cursor.is_readonly))
            return False  # do not run it

        cursor = self.connection.cursor()
        cursor.exec_trace = first_step
        self._refusal, self._reads, self._writes, self._rules = None, set(), set(), rules
        try:
            cursor.execute(sql, bindings, can_cache=False)
        except apsw.ExecTraceAbort:
            pass
        except KeyError as error:
            _explain_unbound(error, bindings)
            raise
        except (apsw.AuthError, apsw.SQLError) as error:
            raise self._refusal or error from None
        finally:
            self._rules = None
        text, columns, readonly = found[0] if found else ("", (), True)
        if not _without_comments(text):
            raise QueryError("there is no statement to run")
        return Inspection(text, columns, readonly, frozenset(self._reads), frozenset(self._writes))

    def _authorize(
        self, operation: int, first: str | None, second: str | None, db: str | None, by: str | None
    ) -> int:
        if self._rules is None:
            return apsw.SQLITE_OK
        if operation == apsw.SQLITE_READ and first:
            self._reads.add(first)
        elif operation in WRITES and first:
            self._writes.add(first)
        refusal = self._rules(operation, first, second, by)
        if refusal is None:
            return apsw.SQLITE_OK
        self._refusal = self._refusal or refusal
        return apsw.SQLITE_DENY


class Statements:
    """Statements under one set of rules, each inspected once."""

    def __init__(
        self,
        inspector: Inspector,
        schema: Schema,
        rules: Rules,
        *,
        reads_only: bool = False,
        footprints: Footprints | None = None,
    ) -> None:
        self._inspector = inspector
        self._connection = inspector.connection
        # A cursor of its own: `Connection.execute` would make one for each statement.
        self._execute = inspector.connection.cursor().execute
        self._schema = schema
        self._rules = rules
        self._reads_only = reads_only
        self._footprints = footprints
        self.rested_on: Tables = NOTHING
        """The footprint of all statements since this was last emptied."""
        self._known: dict[str, Statement] = {}
        self.on_savepoint: Callable[[], None] = lambda: None
        """Called when a statement made, released or rolled back a savepoint."""

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Run one statement and give its rows."""
        bindings = bind_all(params)
        statement = self._known.get(sql) or self.inspect(sql, bindings)
        if not statement.rests_on <= self.rested_on:
            self.rested_on |= statement.rests_on
        try:
            rows = self._execute(sql, bindings)
            if statement.positions:
                return self._rows(statement, rows)
            if statement.by_key and self._connection.changes() != 1:
                self.rested_on |= statement.writes
            if not statement.writes:
                self.on_savepoint()  # all that neither reads nor writes
            return []
        except UnicodeDecodeError as error:
            raise QueryError(
                f"a text that is not UTF-8 cannot be read ({error}): read it as CAST(… AS BLOB)"
            ) from error
        except KeyError as error:
            _explain_unbound(error, bindings)
            raise

    def _rows(self, statement: Statement, rows: apsw.Cursor) -> list[Row]:
        positions, converters = statement.positions, statement.converters
        if converters is None:
            return [Row(positions, values) for values in rows]
        return [Row(positions, _convert(converters, values)) for values in rows]

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Run one writing statement once for each of `rows`."""
        bindings = [bind_all(row) for row in rows]
        if not bindings:
            return
        statement = self._known.get(sql) or self.inspect(sql, bindings[0])
        if statement.positions:
            raise StatementRefused("executemany gives no rows: use execute for each instead")
        self.rested_on |= statement.rests_on | (statement.writes if statement.by_key else NOTHING)
        try:
            self._connection.executemany(sql, bindings)
        except KeyError as error:
            _explain_unbound(error, *bindings)
            raise

    def reads(self, sql: str | Executable, params: Parameters = ()) -> frozenset[str]:
        """The tables that a statement reads. Raises what running it would, for its text."""
        if not isinstance(sql, str):
            return frozenset().union(*map(self.reads, self.bridge.texts(sql, params)))
        return (self._known.get(sql) or self.inspect(sql, bind_all(params))).reads

    @cached_property
    def bridge(self) -> Any:
        """SQLAlchemy's way to this connection, for queries."""
        return sqlalchemy_extension().Bridge(self)

    def columns(self, sql: str) -> Sequence[str]:
        """The names of the columns that a statement which was run gives."""
        return tuple(self._known[sql].positions)

    def changed_rows(self) -> int:
        """How many rows the last writing statement changed."""
        return self._connection.changes()

    def writes(self, sql: str) -> frozenset[str]:
        """The tables that a statement which was run may change."""
        statement = self._known.get(sql)
        return frozenset() if statement is None else statement.writes

    def inspect(self, sql: str, bindings: Any = ()) -> Statement:
        """Compile a statement without running it. Raises what the rules refuse."""
        if complaint := formless_text(sql):
            raise QueryError(f"the statement {complaint}")
        inspection = self._inspector.inspect(sql, bindings, self._rules)
        if self._reads_only and not inspection.readonly:  # what no rule sees: VACUUM
            raise NotReadOnly(f"a query only reads; it cannot run {inspection.text.strip()!r}")
        if _without_comments(sql[len(inspection.text) :]):
            raise QueryError(
                f"one statement at a time; after {inspection.text.strip()!r} comes another"
            )
        if _has_or_rollback(inspection.text):
            raise StatementRefused("OR ROLLBACK would end the transaction: leave it out")
        statement = self._describe(inspection, bindings)
        if len(self._known) >= CACHE_MAX:
            self._known.clear()
        self._known[sql] = statement
        return statement

    def _describe(self, inspection: Inspection, bindings: Any) -> Statement:
        names = [column[0] for column in inspection.columns]
        positions = {name: i for i, name in enumerate(names)}
        if len(positions) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise QueryError(f"two columns are named {twice!r}: give one another name with AS")
        converters = tuple(self._converter(*column[2:]) for column in inspection.columns)
        text, reads, writes = inspection.text, inspection.reads, inspection.writes
        by_key, rests_on = False, NOTHING
        if self._footprints is not None:
            by_key = self._footprints.by_key(text, bindings, writes)
            rests_on = self._footprints.of(text, reads, writes, by_key=by_key)
        return Statement(
            positions,
            converters if any(converters) else None,
            reads,
            writes,
            rests_on,
            by_key,
        )

    def _converter(
        self, database: str | None, table: str | None, column: str | None
    ) -> Callable[[Any], Any] | None:
        if database != "main" or table not in self._schema.tables:
            return None
        return self._schema.tables[table].reader(column)


def bind_all(params: Parameters) -> Any:
    """Parameters in the forms that SQLite is given."""
    if type(params) is not tuple:  # before the costlier questions
        if isinstance(params, Mapping):
            return {name: bind(value) for name, value in params.items()}
        if isinstance(params, str | bytes):
            raise QueryError("parameters are a sequence: write (value,) for a single one")
    # Most are plain texts: those are told here, without two calls for each.
    return tuple(
        [
            value if type(value) is str and value.isascii() and "\0" not in value else bind(value)
            for value in params
        ]
    )


def _explain_unbound(error: KeyError, *bindings: Any) -> None:
    """Raises `QueryError` where the error is about a parameter without a value."""
    name = error.args[0] if error.args else None
    if any(isinstance(each, dict) and name not in each for each in bindings):
        raise QueryError(
            f"the statement has a parameter :{name}, and no value is given for it"
        ) from error


def _without_comments(sql: str) -> str:
    return _COMMENTS.sub("", sql).strip(" \t\r\n;")


def _has_or_rollback(sql: str) -> bool:
    words = [token.word for token in ddl.tokens_of(sql)]
    return ("OR", "ROLLBACK") in pairwise(words)


def _convert(
    converters: tuple[Callable[[Any], Any] | None, ...], values: tuple[Any, ...]
) -> tuple[Any, ...]:
    return tuple(
        value if convert is None or value is None else convert(value)
        for convert, value in zip(converters, values, strict=True)
    )
