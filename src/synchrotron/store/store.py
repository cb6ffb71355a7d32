"""A replica's database, put together: opened, checked, installed, guarded."""

from __future__ import annotations

import hashlib
import os
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import apsw

from synchrotron.app import ddl
from synchrotron.app.context import Parameters
from synchrotron.app.definition import Definition
from synchrotron.core.ids import ClientId, Entropy, new_client_id
from synchrotron.errors import NewerFile, OtherApplication, WrongUser
from synchrotron.store import local
from synchrotron.store.capture import Capture
from synchrotron.store.database import MACHINE, Database, machine_errors
from synchrotron.store.encryption import Key
from synchrotron.store.footprint import Footprints
from synchrotron.store.functions import ActionFunctions
from synchrotron.store.guard import action_rules, guard_triggers, query_rules
from synchrotron.store.log import Log
from synchrotron.store.rows import Rows
from synchrotron.store.state import State, make_state, read_state, write_state
from synchrotron.store.statements import Inspector, Statements

if TYPE_CHECKING:
    from sqlalchemy import Executable


class Store:
    """One local database with everything that works on it."""

    def __init__(
        self,
        definition: Definition,
        path: str | os.PathLike[str],
        *,
        entropy: Entropy,
        client_id: ClientId | None = None,
        user: str = "",
        key: Key | None = None,
    ) -> None:
        self.definition = definition
        self.schema = definition.schema
        self.database = Database(path, key)
        self.writer = self.database.writer
        self.functions = ActionFunctions(self.writer)
        self._entropy = entropy
        self.triggers = local.Triggers(self.writer, definition.local)
        try:
            with machine_errors(f"opening {self.database.path}", (*MACHINE, apsw.Error)):
                self._install(entropy, client_id, user)
        except BaseException:
            self.database.close()
            raise
        self._rules = query_rules(definition.schema, definition.local)
        inspector = Inspector(self.writer, definition.local.virtual)
        self.footprints = Footprints(self.writer, self.schema.tables)
        self.statements = Statements(
            inspector,
            self.schema,
            action_rules(self.schema, definition.local),
            footprints=self.footprints,
        )
        self._queries = {
            self.writer: Statements(inspector, self.schema, self._rules, reads_only=True)
        }
        self.database.on_reader(self._adopt_reader)
        self.capture = Capture(self.writer, self.schema)
        self.statements.on_savepoint = self.capture.doubt
        self.rows = Rows(self.database, self.schema, self.triggers)
        self.log = Log(self.writer, self.schema.tables)

    def read_state(self) -> State:
        return read_state(self.writer)

    def write_state(self, state: State) -> None:
        write_state(self.writer, state)

    def queries(self, connection: apsw.Connection) -> Statements:
        """The statements of a connection for queries."""
        return self._queries[connection]

    def _adopt_reader(self, connection: apsw.Connection) -> None:
        inspector = Inspector(connection, self.definition.local.virtual)
        self._queries[connection] = Statements(inspector, self.schema, self._rules, reads_only=True)

    def reads(
        self, connection: apsw.Connection, sql: str | Executable, params: Parameters
    ) -> frozenset[str]:
        """The synced tables on which a query depends, those behind local ones included."""
        local = self.definition.local
        found: set[str] = set()
        for table in self._queries[connection].reads(sql, params):
            found |= local.derived_from(table) if table in local.names else {table}
        return frozenset(found & self.schema.tables.keys())

    def close(self) -> None:
        self.functions.close()
        self.database.close()

    @property
    def in_action(self) -> bool:
        return self.functions.context is not None

    # ---- opening ------------------------------------------------------------------

    def _install(self, entropy: Entropy, client_id: ClientId | None, user: str) -> None:
        definition = self.definition
        with self.database.transaction():
            if self.database.is_new:
                # Another process may have been faster.
                self.database.is_new = not _exists(self.writer, "synchrotron_replica")
            if self.database.is_new:
                self._create(State(definition.name, client_id or new_client_id(entropy), user))
            state = read_state(self.writer)
            check_fits(self.database.path, definition, state, user)
            if state.migrations < len(definition.migrations):
                self._migrate(state)
            self._install_local(state)
            write_state(self.writer, state)

    def _create(self, state: State) -> None:
        for statement in _script("replica.sql"):
            self.writer.execute(statement)
        self.database.make_ours()
        for statement in self.schema.statements:
            self.writer.execute(statement)
        for trigger in guard_triggers(self.schema):
            self.writer.execute(trigger)
        state.migrations = len(self.definition.migrations)
        state.tables = _fingerprint(self.definition, state.migrations)
        state.local = "none"
        make_state(self.writer, state)

    def _migrate(self, state: State) -> None:
        for statement in self.definition.migration_statements(state.migrations):
            self.writer.execute(statement)
        before = self.definition.schema_after(state.migrations)
        Log(self.writer, self.schema.tables).grow(before.tables)
        if state.left_out:
            state.bootstrapped = False  # what is missing comes with a snapshot (S11)
        for trigger in guard_triggers(self.schema):
            self.writer.execute(trigger.replace("CREATE TRIGGER", "CREATE TRIGGER IF NOT EXISTS"))
        state.migrations = len(self.definition.migrations)
        state.tables = _fingerprint(self.definition, state.migrations)

    def _install_local(self, state: State) -> None:
        wanted = self.definition.local
        if state.local == wanted.fingerprint:
            self.triggers.install()
            return
        self.database.enforce_foreign_keys(False)
        local.rebuild(self.writer, self.schema, wanted, self.triggers, self._local_tables())
        self.database.enforce_foreign_keys(True)
        state.local = wanted.fingerprint

    def _local_tables(self) -> list[str]:
        names: list[Any] = self.writer.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            "AND name NOT GLOB 'synchrotron_*' AND name NOT GLOB 'sqlite_*' "
            # FTS5's own tables first: its shadow tables cannot be dropped by themselves.
            "ORDER BY sql NOT LIKE 'CREATE VIRTUAL%'"
        ).fetchall()
        return [name for (name,) in names if name not in self.schema.tables]


def check_fits(path: str, definition: Definition, state: State, user: str = "") -> None:
    """Raises `FileError` where a file is not this application's, this user's or of this age."""
    if state.app != definition.name:
        raise OtherApplication(
            f"{path} belongs to application {state.app!r}, not {definition.name!r}"
        )
    if user and state.user and state.user != user:
        raise WrongUser(
            f"{path} belongs to user {state.user!r}, not {user!r}: open another file for this user"
        )
    if state.migrations > len(definition.migrations):
        raise NewerFile(
            f"{path} has seen {state.migrations} migrations of {definition.name!r}, and this "
            f"version has {len(definition.migrations)}: upgrade the application"
        )
    if state.tables != _fingerprint(definition, state.migrations):
        raise OtherApplication(
            f"{path}: its tables are not those of the schema of {definition.name!r}. A schema "
            "grows by App(migrations=…); what is written already stays as it is"
        )


def _fingerprint(definition: Definition, migrations: int) -> str:
    """What the author wrote, without spaces and comments."""
    sources = definition.sources[: migrations + 1]
    texts = [" ".join(token.text for token in ddl.tokens_of(source)) for source in sources]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _exists(connection: apsw.Connection, table: str) -> bool:
    return bool(
        connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).get
    )


def _script(name: str) -> list[str]:
    """The statements of one of the package's SQL files."""
    text = resources.files("synchrotron.store").joinpath("sql", name).read_text()
    text = re.sub(r"--[^\n]*", "", text)
    return [statement for statement in map(str.strip, text.split(";")) if statement]
