"""What a statement may do, judged while SQLite compiles it (A2, A3).

Our own connections are guarded by an authorizer: it sees every table and function that
a statement would touch, through views, triggers and cascades too. Foreign programs are
stopped by triggers in the file that call a function only we have; its name says what
to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import apsw

from synchrotron.app.local import Local
from synchrotron.app.schema import Schema
from synchrotron.errors import (
    LocalTableRefused,
    NotReadOnly,
    StatementRefused,
    SynchrotronError,
    WriteOutsideAction,
)

READS = (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE)
WRITES = {
    apsw.SQLITE_INSERT: "INSERT",
    apsw.SQLITE_UPDATE: "UPDATE",
    apsw.SQLITE_DELETE: "DELETE",
}
OPERATIONS = {
    code: str(name).removeprefix("SQLITE_").replace("_", " ")
    for code, name in apsw.mapping_authorizer_function.items()
    if isinstance(code, int)
}
# Their results rest on the connection, the file or the build, not on rows and record.
_UNSHARED_FUNCTIONS = frozenset(
    {"changes", "total_changes", "last_insert_rowid", "load_extension"}
    | {"sqlite_version", "sqlite_source_id", "sqlite_offset", "sqlite_log"}
    | {"sqlite_compileoption_get", "sqlite_compileoption_used"}
)
_SHARED_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree", "generate_series"})
GUARD = "this_table_is_synced_by_synchrotron_change_it_only_in_actions_with_replica_run"


class Rules(Protocol):
    """From an operation, its two names and the trigger it happens in to why it is refused."""

    def __call__(
        self, operation: int, first: str | None, second: str | None, trigger: str | None
    ) -> SynchrotronError | None: ...


def action_rules(schema: Schema, local: Local) -> Rules:
    """What an action's own statements may do: read and write synced tables, and savepoints."""
    synced = frozenset(schema.tables)

    def rule(
        operation: int, first: str | None, second: str | None, trigger: str | None
    ) -> SynchrotronError | None:
        if trigger is not None and trigger in local.trigger_names:
            return None  # it was looked at when it was defined
        name = first or ""
        if operation in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return None
        if operation == apsw.SQLITE_FUNCTION:
            return _function(second or "")
        if operation == apsw.SQLITE_SAVEPOINT:
            return _savepoint(second or "")
        if operation == apsw.SQLITE_READ or operation in WRITES:
            if operation in WRITES and name.startswith("sqlite_"):
                return _machinery("a change of the schema")
            return None if name in synced else _unsynced(operation, name)
        return _machinery(OPERATIONS.get(operation, str(operation)))

    def _unsynced(operation: int, name: str) -> SynchrotronError | None:
        if name in local.names:
            return LocalTableRefused(
                f"table {name} is local to each replica, so what an action finds there would "
                "differ between them: read the synced tables it is derived from"
            )
        if operation == apsw.SQLITE_READ and (name in _SHARED_TABLE_FUNCTIONS or not name):
            return None
        return StatementRefused(f"an action cannot use {name}: it is not a synced table")

    return rule


def _machinery(used: str) -> SynchrotronError:
    return StatementRefused(
        f"an action cannot use {used}: it runs within one transaction, on the schema that the "
        "App was made with"
    )


def _function(name: str) -> SynchrotronError | None:
    if name.lower() in _UNSHARED_FUNCTIONS:
        return StatementRefused(f"SQL function {name}() gives every replica another result")
    return None


def _savepoint(name: str) -> SynchrotronError | None:
    if name.lower().startswith("synchrotron"):
        return StatementRefused("savepoint names in synchrotron are reserved")
    return None


def query_rules(schema: Schema, local: Local) -> Rules:
    """What `replica.query` may do: read."""

    def rule(
        operation: int, first: str | None, second: str | None, trigger: str | None
    ) -> SynchrotronError | None:
        if operation in READS or operation == apsw.SQLITE_FUNCTION:
            return None
        if operation in WRITES and not (first or "").startswith("sqlite_"):
            return WriteOutsideAction(
                f"{WRITES[operation]} on {first} outside an action: write a function with "
                "@app.action and call replica.run(…), so that the change is recorded and synced"
            )
        used = "a change of the schema" if operation in WRITES else OPERATIONS.get(operation)
        return NotReadOnly(f"a query only reads; it cannot use {used}")

    return rule


def guard_triggers(schema: Schema) -> Iterator[str]:
    """Triggers that make a foreign program's write fail, with the remedy as its error."""
    for table in schema.tables:
        for event in WRITES.values():
            yield (
                f"CREATE TRIGGER synchrotron_guard_{table}_{event.lower()} "
                f"BEFORE {event} ON {table} BEGIN SELECT {GUARD}(); END"
            )


def guarded_tables(connection: apsw.Connection) -> frozenset[str]:
    """The tables of a file that have one of these triggers, which are the synced ones."""
    tables = connection.execute(
        "SELECT DISTINCT tbl_name FROM sqlite_master "
        "WHERE type = 'trigger' AND name GLOB 'synchrotron_guard_*'"
    )
    return frozenset(table for (table,) in tables)
