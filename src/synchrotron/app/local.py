"""Local tables: what a replica derives from synced rows for itself, on SQLite only.

Tables, FTS5 indexes and triggers. The triggers follow every change of synced rows,
replayed and undone ones too, and write local tables only (A8). They are TEMP triggers
of the writing connection: those still fire while the file's own triggers, which guard
it against foreign programs, are off.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

import apsw

from synchrotron.app.ddl import NEW_ID
from synchrotron.app.schema import Schema
from synchrotron.errors import SchemaError

_TRIGGER = re.compile(r"\s*CREATE\s+(?:TEMP(?:ORARY)?\s+)?TRIGGER\b", re.IGNORECASE)
_TABLE = re.compile(r"\s*CREATE\s+(?:VIRTUAL\s+)?TABLE\b", re.IGNORECASE)
_INDEX = re.compile(r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\b", re.IGNORECASE)
_IGNORE = re.compile(r"\bRAISE\s*\(\s*IGNORE\b", re.IGNORECASE)
_DICE = frozenset({"random", "randomblob"})
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)


class Local(NamedTuple):
    """The statements of `App(local=…)`, checked."""

    tables: tuple[str, ...]
    """CREATE TABLE, CREATE VIRTUAL TABLE and CREATE INDEX statements."""
    triggers: tuple[str, ...]
    """CREATE TEMP TRIGGER statements."""
    names: frozenset[str]
    """Every table that they make, FTS5's shadow tables included."""
    virtual: tuple[str, ...]
    trigger_names: frozenset[str]
    sources: Mapping[str, frozenset[str]]
    """For each table that a trigger writes, the synced tables whose changes it follows."""

    def derived_from(self, table: str) -> frozenset[str]:
        """The synced tables on which a local one depends.

        What no trigger writes itself (a shadow table of FTS5, or fts5vocab) depends on
        something else that is local: it counts as derived from all that triggers follow.
        """
        return self.sources.get(table) or frozenset().union(*self.sources.values())

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(self.tables + self.triggers).encode()).hexdigest()


def read_local(sql: str, schema: Schema) -> Local:
    """Check a `local` script against the schema. Raises `SchemaError`."""
    tables, triggers = [], []
    for statement in _statements(sql):
        if _TRIGGER.match(statement):
            if _IGNORE.search(statement):
                raise SchemaError(
                    f"local: RAISE(IGNORE) would keep a synced row from changing: {statement}"
                )
            triggers.append(_TRIGGER.sub("CREATE TEMP TRIGGER", statement, count=1))
        elif _TABLE.match(statement) or _INDEX.match(statement):
            tables.append(statement)
        else:
            raise SchemaError(
                f"local: only tables, indexes and triggers can be made there, not: {statement}"
            )
    trial = apsw.Connection(":memory:")
    try:
        trial.create_scalar_function(NEW_ID, lambda *_: "")
        names, sources = _try(trial, schema, tables, triggers)
        made = {name for (name,) in trial.execute("SELECT name FROM temp.sqlite_master")}
        virtual: list[Any] = trial.execute(
            "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL%' ORDER BY name"
        ).fetchall()
    finally:
        trial.close()
    return Local(
        tuple(tables),
        tuple(triggers),
        names,
        tuple(name for (name,) in virtual),
        frozenset(made),
        sources,
    )


def _statements(sql: str) -> Iterator[str]:
    """Split a script where SQLite itself sees a statement end."""
    statement = ""
    for part in re.split(r"(?<=;)", sql):
        statement += part
        if apsw.complete(statement):
            if _COMMENTS.sub("", statement).strip(" \t\r\n;"):
                yield _COMMENTS.sub("", statement).strip()
            statement = ""
    if rest := _COMMENTS.sub("", statement).strip():
        if not apsw.complete(rest + ";"):
            raise SchemaError(f"local: this statement has no end: {rest}")
        yield rest + ";"


def _try(
    trial: apsw.Connection, schema: Schema, tables: list[str], triggers: list[str]
) -> tuple[frozenset[str], Mapping[str, frozenset[str]]]:
    statement = ""
    try:
        for statement in schema.statements:
            trial.execute(statement)
        synced, shared = _names(trial, "table"), _names(trial, "index")
        for statement in (*tables, *triggers):
            trial.execute(statement)
        names = _names(trial, "table").keys() - synced
        _check_indexes(_names(trial, "index").items() - shared.items(), schema)
        _check_foreign_keys(trial, names)
        sources = _check_writes(trial, schema, names)
    except apsw.Error as error:
        raise SchemaError(f"local: SQLite refuses {statement!r}: {error}") from error
    if reserved := [name for name in names if name.startswith("synchrotron_")]:
        raise SchemaError(f"local: table {reserved[0]}: names in synchrotron_ are reserved")
    return frozenset(names), sources


def _names(trial: apsw.Connection, type: str) -> dict[str, str]:
    """The tables or indexes that there are, and of which table each is."""
    return dict(trial.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = ?", (type,)))


def _check_indexes(indexes: Set[tuple[str, str]], schema: Schema) -> None:
    """Other replicas lack a local index: in another order, a scan may find another row first."""
    for index, table in sorted(indexes):
        if table in schema.tables:
            raise SchemaError(
                f"local: index {index} is on the synced table {table}, where every replica needs "
                "the same: put it into schema, or into a migration"
            )


def _check_foreign_keys(trial: apsw.Connection, local: Set[str]) -> None:
    """They are off while changes are undone and taken in, and an action could break one."""
    for name in sorted(local):
        for key in trial.execute(f"SELECT \"table\" FROM pragma_foreign_key_list('{name}')"):
            raise SchemaError(
                f"local: table {name} has a foreign key to {key[0]}, which is not looked at while "
                "changes are undone and taken in: leave it out, and let a trigger delete what "
                "goes with a row"
            )


def _check_writes(
    trial: apsw.Connection, schema: Schema, local: Set[str]
) -> dict[str, frozenset[str]]:
    """Prepare every kind of change, and see what the triggers on it would write."""
    found: list[str] = []
    sources: dict[str, set[str]] = {}
    changed = ""

    def watch(op: int, table: str | None, name: str | None, db: str | None, by: str | None) -> int:
        if op in _WRITES and by is not None and table not in local:
            found.append(
                f"local: trigger {by} writes {table}, which is not a local table: "
                "synced rows change only inside actions, on every replica alike"
            )
        elif op in _WRITES and by is not None and table is not None:
            sources.setdefault(table, set()).add(changed)
        if op == apsw.SQLITE_FUNCTION and by is not None and name in _DICE:
            found.append(f"local: trigger {by} uses {name}(), whose results are the action's")
        return apsw.SQLITE_OK

    trial.authorizer = watch
    for table in schema.tables.values():
        key, changed = table.key[0], table.name
        for change in (
            f"DELETE FROM {table.name}",
            f"UPDATE {table.name} SET {key} = {key}",
            *(f"UPDATE {table.name} SET {c.name} = {c.name}" for c in table.columns),
            f"INSERT INTO {table.name} ({key}) VALUES (NULL)",
        ):
            trial.execute("EXPLAIN " + change)
    trial.authorizer = None
    if found:
        raise SchemaError(found[0])
    return {name: frozenset(tables) for name, tables in sources.items()}
