"""Adoption: tables that were there before, with their rows, become the application's.

`conform` brings the tables into the schema's shape. What that shape is, PostgreSQL says
itself: the schema is made once more beside them, and the two catalogues are compared. What
loses nothing is done (a generated column is added, a foreign key is deferred); whatever else
differs is refused with the statement that mends it.

`take_rows` makes their rows the floor: they were always there, and no action wrote them (F7).
So replicas get them with their snapshot. All of it is the installation's one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec
import psycopg
from psycopg import Connection

from synchrotron.app import ddl
from synchrotron.app.schema import AUDIENCE, Column, Schema, Table
from synchrotron.app.types import Date, Json, Timestamp, Uuid, shown
from synchrotron.core.canonical import text_of
from synchrotron.core.messages import RowPatch
from synchrotron.errors import InstallationError
from synchrotron.server.form import Form
from synchrotron.server.roles import OWNER, Login, act_as_login, act_as_owner
from synchrotron.server.tables import listed, quoted, server_statement, wire_sql

WANTED = "synchrotron_wanted"
"""The schema in which the wanted tables are made, to be compared with those that are there."""
ROWS_PER_BATCH = 5000

_COLUMNS = """
    SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
        CASE a.attgenerated WHEN 's' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid)
            WHEN '' THEN NULL ELSE 'VIRTUAL' END,
        CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
        a.attidentity <> '', c.collname
    FROM pg_catalog.pg_attribute AS a
    LEFT JOIN pg_catalog.pg_attrdef AS d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
# Of an index all that matters: what is to be unique among which rows.
_UNIQUE = """
    SELECT (
            SELECT string_agg(pg_catalog.pg_get_indexdef(i.indexrelid, n, true), ', ' ORDER BY n)
            FROM generate_series(1, i.indnkeyatts) AS n
        ) || coalesce(' WHERE ' || pg_catalog.pg_get_expr(i.indpred, i.indrelid), '')
          || CASE WHEN i.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' ELSE '' END,
        i.indisprimary, i.indexrelid::regclass::text,
        pg_catalog.pg_get_constraintdef(c.oid)
    FROM pg_catalog.pg_index AS i
    LEFT JOIN pg_catalog.pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
    WHERE i.indrelid = %s::regclass AND i.indisunique
"""
_CONSTRAINTS = """
    SELECT conname, pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
    WHERE conrelid = %s::regclass AND contype = %s ORDER BY conname
"""
_KINDS = """
    SELECT c.relkind, c.relispartition OR EXISTS (
        SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid
    )
    FROM pg_catalog.pg_class AS c WHERE c.oid = %s::regclass
"""


class _Column(NamedTuple):
    """A column as the catalogue has it."""

    name: str
    type: str
    not_null: bool
    generated: str | None
    default: str | None
    identity: bool
    collation: str | None

    @property
    def definition(self) -> str:
        parts = [quoted(self.name), self.type]
        if self.generated is not None:
            parts.append(f"GENERATED ALWAYS AS ({self.generated}) STORED")
        if self.default is not None:
            parts.append(f"DEFAULT {self.default}")
        return " ".join([*parts, "NOT NULL"] if self.not_null else parts)


class Adopted(NamedTuple):
    """What an adoption took over."""

    rows: Mapping[str, int]
    """How many of each table."""
    memberless: Sequence[str]
    """Audiences that have rows and no member: nobody sees those."""


class Adoption:
    """Takes over tables, by name, that exist in the schema `public`."""

    def __init__(
        self,
        connection: Connection[Any],
        schema: Schema,
        statements: Sequence[str],
        login: Login,
        names: Sequence[str],
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._statements = statements
        self._login = login
        self.names = names

    def has(self, part: ddl.SchemaStatement) -> bool:
        """Whether the adopted tables have what a statement of the schema would make."""
        if not isinstance(part, ddl.CreateIndex):
            return part.name in self.names
        [(there,)] = self._query(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indexrelid ="
            " pg_catalog.to_regclass(%s) AND i.indrelid = ANY (%s::regclass[]))",
            f"public.{quoted(part.name)}",
            [f"public.{quoted(name)}" for name in self.names],
        )
        return bool(there)

    def _query(self, statement: str, *parameters: Any) -> list[Any]:
        done = self._connection.execute(statement.encode(), parameters or None)
        return done.fetchall() if done.description else []

    # ---- shape ------------------------------------------------------------------------

    def conform(self) -> None:
        """Bring the tables into the schema's shape. Raises `InstallationError`."""
        for name in self.names:
            self._take_over(name)
        self._make_wanted()
        for name in self.names:
            self._drop_foreign_keys(name)
        for name in self.names:
            self._conform_columns(name)
            self._conform_unique(name)
            self._conform_checks(name)

    def refer(self) -> None:
        """Add the foreign keys, once all tables are there. Raises `InstallationError`."""
        for name in self.names:
            self._add_foreign_keys(name)
        self._query(f"DROP SCHEMA {WANTED} CASCADE")

    def _take_over(self, name: str) -> None:
        live = f"public.{quoted(name)}"
        [(kind, inherits)] = self._query(_KINDS, live)
        if kind != "r" or inherits:
            raise InstallationError(
                f"{name} is a view, or a table in parts: only an ordinary table can be adopted. "
                "Rename it, and let an action copy its rows"
            )
        act_as_login(self._connection, self._login)
        try:
            self._query(f"ALTER TABLE {live} OWNER TO {OWNER}")
        except psycopg.errors.InsufficientPrivilege as error:
            raise InstallationError(
                f"table {name} belongs to another role than {self._login.role}: as its owner, "
                f"ALTER TABLE {name} OWNER TO {quoted(self._login.role)}"
            ) from error
        act_as_owner(self._connection)
        self._query(f"LOCK TABLE {live}")
        self._query(f"ALTER TABLE {live} NO FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY")

    def _make_wanted(self) -> None:
        self._query(f"CREATE SCHEMA {WANTED}")
        self._query(f"SET LOCAL search_path = {WANTED}")
        for statement in self._statements:
            self._query(server_statement(statement, self._schema))
        self._query("SET LOCAL search_path = ''")

    def _columns(self, table: str) -> dict[str, _Column]:
        columns = (_Column(*row) for row in self._query(_COLUMNS, table))
        return {column.name: column for column in columns}

    def _conform_columns(self, name: str) -> None:
        there = self._columns(f"public.{quoted(name)}")
        wanted = self._columns(f"{WANTED}.{quoted(name)}")
        if more := there.keys() - wanted.keys():
            self._refuse(name, min(more), "the schema has no such column. Declare or DROP it")
        self._widen(name, there, wanted)
        # What is generated comes last, since it may be made of what is missing as well.
        for column in sorted(wanted.values(), key=lambda column: column.generated is not None):
            if (found := there.get(column.name)) is None:
                self._alter(name, column.name, f"ADD {column.definition}")
            else:
                self._conform_column(name, found, column)

    def _widen(self, name: str, there: dict[str, _Column], wanted: Mapping[str, _Column]) -> None:
        """Give columns a type of the same kind that holds more; what they held, they hold.

        What is generated of them stands in the way, and is made anew.
        """
        narrow = [c for c in there.values() if _is_narrower(c.type, wanted[c.name].type)]
        if not narrow:
            return
        for column in [c for c in there.values() if c.generated and wanted[c.name].generated]:
            self._alter(name, column.name, f"DROP {quoted(column.name)}")
            del there[column.name]
        for column in narrow:
            if column.name in there:
                type = wanted[column.name].type
                self._alter(name, column.name, f"ALTER {quoted(column.name)} TYPE {type}")
                there[column.name] = column._replace(type=type)

    def _conform_column(self, name: str, found: _Column, wanted: _Column) -> None:
        at = wanted.name
        if found.type != wanted.type or found.collation != wanted.collation:
            was = found.type + (f" COLLATE {found.collation}" if found.collation else "")
            remedy = f"ALTER TABLE {name} ALTER {at} TYPE {wanted.type}"
            if wanted.collation:
                remedy += f' COLLATE "{wanted.collation}"'
            self._refuse(name, at, f"it is {was}. {remedy}, or declare what it is")
        if found.generated != wanted.generated:
            self._refuse(
                name,
                at,
                f"it is generated as {found.generated or 'nothing'}, and in the schema as "
                f"{wanted.generated or 'nothing'}. DROP the column, and it is made anew",
            )
        if found.not_null and not wanted.not_null:
            remedy = f"declare NOT NULL, or ALTER TABLE {name} ALTER {at} DROP NOT NULL"
            self._refuse(name, at, f"it is NOT NULL, and in the schema it is not: {remedy}")
        if found.identity:
            self._alter(name, at, f"ALTER {quoted(at)} DROP IDENTITY")
        if wanted.not_null and not found.not_null:
            self._alter(name, at, f"ALTER {quoted(at)} SET NOT NULL")

    def _conform_unique(self, name: str) -> None:
        there = {row[:2]: row for row in self._query(_UNIQUE, f"public.{quoted(name)}")}
        wanted = {row[:2]: row for row in self._query(_UNIQUE, f"{WANTED}.{quoted(name)}")}
        for what, is_primary in there.keys() - wanted.keys():
            if not is_primary and (what, True) in wanted:
                continue  # unique by the primary key as well
            kind = "primary key" if is_primary else "unique"
            index = there[what, is_primary][2]
            raise InstallationError(
                f"table {name}: ({what}) is {kind} by {index}, and not in the schema: replicas "
                "would act against it offline. Declare it so, or drop that index or constraint"
            )
        for what, is_primary in wanted.keys() - there.keys():
            definition = wanted[what, is_primary][3]
            if definition is not None:  # a unique index is made by its own statement
                self._alter(name, what, f"ADD {definition}")

    def _conform_checks(self, name: str) -> None:
        there = self._query(_CONSTRAINTS, f"public.{quoted(name)}", "c")
        wanted = self._query(_CONSTRAINTS, f"{WANTED}.{quoted(name)}", "c")
        for constraint, definition in there:
            if definition not in {d for _, d in wanted}:
                raise InstallationError(
                    f"table {name}: {constraint}, {definition}, is not in the schema: replicas "
                    "would act against it offline. Declare it so, or drop that constraint"
                )
        for _, definition in wanted:
            if definition not in {d for _, d in there}:
                self._alter(name, definition, f"ADD {definition}")

    def _drop_foreign_keys(self, name: str) -> None:
        """Those of the schema come back, deferred and without actions; no other may stay."""
        wanted = [_reference(d) for _, d in self._foreign_keys(WANTED, name)]
        for constraint, definition in self._foreign_keys("public", name):
            if _reference(definition) not in wanted:
                raise InstallationError(
                    f"table {name}: {constraint}, {definition}, is not in the schema: what an "
                    f"action writes would depend on rows that replicas do not have. "
                    f"ALTER TABLE {name} DROP CONSTRAINT {quoted(constraint)}, or declare it so"
                )
            self._query(f"ALTER TABLE public.{quoted(name)} DROP CONSTRAINT {quoted(constraint)}")

    def _add_foreign_keys(self, name: str) -> None:
        for _, definition in self._foreign_keys(WANTED, name):
            self._alter(name, definition, f"ADD {definition.replace(f'{WANTED}.', 'public.')}")

    def _foreign_keys(self, schema: str, name: str) -> list[Any]:
        return self._query(_CONSTRAINTS, f"{schema}.{quoted(name)}", "f")

    def _alter(self, name: str, what: str, change: str) -> None:
        try:
            self._query(f"ALTER TABLE public.{quoted(name)} {change}")
        except psycopg.Error as error:
            reason = error.diag.message_primary or str(error)
            if error.diag.message_detail:
                reason += f" ({error.diag.message_detail})"
            raise InstallationError(
                f"table {name}, {what}: its rows do not satisfy the schema: {reason}. "
                "Mend them, and install again"
            ) from error

    def _refuse(self, table: str, column: str, reason: str) -> NoReturn:
        raise InstallationError(f"table {table}, column {column}: {reason}")

    # ---- rows -------------------------------------------------------------------------

    def take_rows(self) -> Adopted:
        """Make the rows the floor, as one commit: replicas that were there start anew.

        Raises `InstallationError`.
        """
        [(seq,)] = self._query(
            "UPDATE synchrotron.counter SET seq = seq + 1, pruned = seq + 1, rights_seq = seq + 1"
            " RETURNING seq"
        )
        self._query(
            "INSERT INTO synchrotron.commits"
            " SELECT %s, replace(pg_catalog.gen_random_uuid()::text, '-', '')",
            seq,
        )
        counts = {name: self._take_rows(self._schema.tables[name], seq) for name in self.names}
        return Adopted(counts, self._settle_audiences())

    def _take_rows(self, table: Table, seq: int) -> int:
        form = Form(self._schema)
        count = 0
        with self._connection.cursor(name="synchrotron_adopted") as cursor:
            cursor.itersize = ROWS_PER_BATCH
            cursor.execute(_selecting(table).encode())
            while batch := cursor.fetchmany(ROWS_PER_BATCH):
                rows = [_read(table, form, row) for row in batch]
                count += len(rows)
                with (
                    self._connection.cursor() as writing,
                    writing.copy(
                        b"COPY synchrotron.targets (table_name, key, audience, base, present, seq)"
                        b" FROM STDIN"
                    ) as copy,
                ):
                    for key, audience, text in rows:
                        copy.write_row((table.name, key, audience, text, text, seq))
        return count

    def _settle_audiences(self) -> list[str]:
        """Nobody else may begin in an audience that has rows already (H7a).

        Gives those without a member.
        """
        self._query("SELECT synchrotron.note_members()")
        self._query(
            "INSERT INTO synchrotron.audiences AS known (audience, peopled)"
            " SELECT DISTINCT audience, true FROM synchrotron.targets WHERE table_name = ANY (%s)"
            " ON CONFLICT (audience) DO UPDATE SET peopled = true WHERE NOT known.peopled",
            list(self.names),
        )
        [(has_query,)] = self._query("SELECT audiences IS NOT NULL FROM synchrotron.application")
        if not has_query:
            return []
        rows = self._query(
            "SELECT DISTINCT t.audience FROM synchrotron.targets AS t"
            " WHERE t.table_name = ANY (%s) AND NOT EXISTS ("
            "   SELECT FROM synchrotron.members AS m WHERE m.audience = t.audience"
            " ) ORDER BY 1",
            list(self.names),
        )
        return [audience for (audience,) in rows]


_INTEGERS = ("smallint", "integer", "bigint")


def _is_narrower(found: str, wanted: str) -> bool:
    """Whether every value of one type is one of another, as PostgreSQL spells them."""
    if found in _INTEGERS and wanted in _INTEGERS:
        return _INTEGERS.index(found) < _INTEGERS.index(wanted)
    if not found.startswith("character varying"):
        return False
    if wanted == "text":
        return True
    lengths = [type.removeprefix("character varying").strip("()") for type in (found, wanted)]
    return all(length.isdigit() for length in lengths) and int(lengths[0]) < int(lengths[1])


def _reference(definition: str) -> str:
    """What a foreign key refers to, whatever it does when that goes."""
    words = definition.replace(f"{WANTED}.", "public.")
    for end in (" ON UPDATE ", " ON DELETE ", " DEFERRABLE", " NOT VALID"):
        words = words.partition(end)[0]
    return words


# ---- values ---------------------------------------------------------------------------


def _selecting(table: Table) -> str:
    columns = [*table.columns, table.column(AUDIENCE)]
    values = ", ".join(_selected(column) for column in columns)
    return f"SELECT {values} FROM public.{quoted(table.name)} AS t ORDER BY {listed(table.key)}"


def _selected(column: Column) -> str:
    """A value in wire form, or as PostgreSQL writes it where it has none."""
    value = f"t.{quoted(column.name)}"
    match column.type:
        case Timestamp():
            # to_char would leave out that a year is before Christ.
            fits = f"extract(year FROM {value}) BETWEEN 1 AND 9999"
            return f"CASE WHEN {fits} THEN {wire_sql(column, 't')} ELSE {value}::text END"
        case Date() | Json() | Uuid():
            return f"{value}::text"
        case _:
            return wire_sql(column, "t")


def _read(table: Table, form: Form, row: Sequence[Any]) -> tuple[str, str, str]:
    """Key, audience and values of a row, as they are stored. Raises `InstallationError`."""
    *raw, audience = row
    values = {
        column.name: None if value is None else _wire(table, column, value, raw)
        for column, value in zip(table.columns, raw, strict=True)
    }
    key = [values[name] for name in table.key]
    where = f"table {table.name}, row {', '.join(map(str, key))}"
    if audience is None:
        raise InstallationError(
            f"{where}, column {AUDIENCE}: it is NULL. Every row belongs to an audience: fill the "
            f"columns that it is made of, or delete the row"
        )
    if fault := form.fault(RowPatch(table.name, key, audience, "insert", values)):
        raise InstallationError(f"{where}: {fault}")
    return text_of(key), audience, text_of(values)


def _wire(table: Table, column: Column, value: Any, row: Sequence[Any]) -> Any:
    try:
        if isinstance(column.type, Json):
            value = msgspec.json.decode(value)
        return column.type.to_wire(column.type.from_wire(value))
    except (ValueError, msgspec.DecodeError) as error:
        key = [str(row[i]) for i, c in enumerate(table.columns) if c.name in table.key]
        raise InstallationError(
            f"table {table.name}, row {', '.join(key)}, column {column.name}: {shown(value)} has "
            f"no form that replicas could store: {error}. UPDATE it before the installation"
        ) from error


def existing(connection: Connection[Any], names: Sequence[str]) -> Iterator[str]:
    """Which of some tables are there, in the schema `public`."""
    for name in names:
        row = connection.execute("SELECT to_regclass(%s)", (f"public.{quoted(name)}",)).fetchone()
        if row is not None and row[0] is not None:
            yield name
