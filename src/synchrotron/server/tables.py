"""The application's tables in PostgreSQL: SQL made from the schema.

Rows come as JSON in wire form, many at a time: `json_to_recordset` gives each value to the
input function of its column's type, so that a number keeps every digit and one statement
writes a thousand rows. (`jsonb` would rewrite numbers on the way.)

Each table has two places: the live table, in which the acting user inserts and which its owner
writes, and its shadow, on which the user tries what the policies allow (`sql/shadow.sql`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import apsw

from synchrotron.app import ddl
from synchrotron.app.schema import AUDIENCE, Column, ForeignKey, Schema, Table
from synchrotron.app.types import Bytes, Integer, Numeric, Timestamp, Uuid
from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Audience
from synchrotron.core.patches import Values
from synchrotron.server.parameters import json_text

PLACE = "synchrotron_place"
"""The column by which rows of one statement are told apart. In the shadow a row that is placed
there to be written has a positive one; one that is inserted has it negative, and is in no index."""
WANTED = "synchrotron_audience"
"""The audience that a row is expected to have."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str], of: str = "") -> str:
    return ", ".join(f"{of}{quoted(name)}" for name in names)


class ServerTable:
    """One table, and the statements that read and write it.

    `rows` in the statements is a JSON array of objects.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.name = table.name
        self.live = f"public.{quoted(table.name)}"
        self.shadow = f"synchrotron_shadow.{quoted(table.name)}"

    # ---- statements of the acting user, in the shadow --------------------------------

    # They give the places of the rows that came out otherwise than they should: whether a policy
    # hides such a row, so that it was passed over, and in which audience it is.

    @cached_property
    def try_insert(self) -> str:
        names = [column.name for column in self.table.columns]
        return (
            f"WITH r AS MATERIALIZED (SELECT * FROM {self._rows('%s', names, wanted=True)}), "
            f"tried AS (INSERT INTO {self.shadow} ({PLACE}, {listed(names)}) "
            f"SELECT -r.{PLACE}, {self._values(names)} FROM r RETURNING {PLACE}, {AUDIENCE}) "
            f"SELECT r.{PLACE}, false, w.{AUDIENCE} "
            f"FROM r JOIN tried AS w ON w.{PLACE} = -r.{PLACE} "
            f"WHERE w.{AUDIENCE} IS DISTINCT FROM r.{WANTED}"
        )

    def try_update(self, names: Sequence[str]) -> str:
        changes = ", ".join(f"{quoted(name)} = {self._value(name)}" for name in names)
        return self._trying(
            f"UPDATE {self.shadow} AS t SET {changes or f'{PLACE} = r.{PLACE}'} FROM r", names
        )

    @cached_property
    def try_delete(self) -> str:
        return self._trying(f"DELETE FROM {self.shadow} AS t USING r", ())

    def _trying(self, statement: str, names: Iterable[str]) -> str:
        """Of rows that were placed before: one that a policy hides is passed over.

        They are found by the index. A join might read all that were placed, and then policies are
        asked of rows that this statement does not write.
        """
        return (
            f"WITH r AS MATERIALIZED (SELECT * FROM {self._rows('%s', names, wanted=True)}), "
            f"tried AS ({statement} WHERE t.{PLACE} = r.{PLACE} AND t.{PLACE} > 0 "
            f"AND t.{PLACE} = ANY (ARRAY(SELECT {PLACE} FROM r)) "
            f"RETURNING t.{PLACE}, t.{AUDIENCE}) "
            f"SELECT r.{PLACE}, w.{PLACE} IS NULL, w.{AUDIENCE} "
            f"FROM r LEFT JOIN tried AS w ON w.{PLACE} = r.{PLACE} "
            f"WHERE w.{PLACE} IS NULL OR w.{AUDIENCE} IS DISTINCT FROM "
            f"coalesce(r.{WANTED}, w.{AUDIENCE})"
        )

    # ---- what the installation makes ---------------------------------------------------

    def shadow_statements(self) -> Iterator[str]:
        """The shadow, made anew."""
        yield f"DROP TABLE IF EXISTS {self.shadow} CASCADE"
        yield f"CREATE UNLOGGED TABLE {self.shadow} (LIKE {self.live} INCLUDING GENERATED)"
        for column in self.table.columns:
            # The end state alone has to satisfy the constraints (H5).
            yield f"ALTER TABLE {self.shadow} ALTER {quoted(column.name)} DROP NOT NULL"
        yield f"ALTER TABLE {self.shadow} ADD {PLACE} bigint"
        yield f"CREATE INDEX ON {self.shadow} ({PLACE}) WHERE {PLACE} > 0"
        yield f"ALTER TABLE {self.shadow} ENABLE ROW LEVEL SECURITY"

    def functions(self, schema: Schema) -> Iterator[str]:
        """The owner's statements, once all tables are there, and one that is the acting user's."""
        yield self._insert_function()
        yield self._place_function()
        yield self._write_function()
        if self.table.foreign_keys:
            yield self._parentless_function()
        for i, foreign_key in enumerate(self.table.foreign_keys):
            yield self._orphans_function(i, foreign_key, schema.tables[foreign_key.parent])

    def _insert_function(self) -> str:
        """Insert live rows as the acting user.

        Gives the places of rows that did not come out in the audience in which they should (S9).
        """
        return _function(
            f"insert_{self.name}(rows json) RETURNS SETOF bigint",
            f"{self._written()} "
            f"SELECT r.{PLACE} FROM r LEFT JOIN written AS t ON {self._same(self.table.key)} "
            f"WHERE t.{AUDIENCE} IS DISTINCT FROM r.{WANTED};",
            security="INVOKER",
        )

    def _place_function(self) -> str:
        """Put rows into the shadow as they stood at some place in history."""
        names = [column.name for column in self.table.columns]
        return _function(
            f"place_{self.name}(rows json) RETURNS void",
            f"INSERT INTO {self.shadow} ({PLACE}, {listed(names)}) "
            f"SELECT r.{PLACE}, {self._values(names)} FROM {self._rows('rows', names)};",
        )

    def _write_function(self) -> str:
        """Replace live rows by others: first all that are gone, then all that are present.

        Gives the places of rows that came out in another audience than they should (S9).
        """
        key = self.table.key
        return _function(
            f"write_{self.name}(gone json, rows json) RETURNS SETOF bigint",
            f"DELETE FROM {self.live} AS t USING {self._rows('gone', key)} "
            f"WHERE {self._same(key)}; "
            f"{self._written()} "
            f"SELECT r.{PLACE} FROM r JOIN written AS t ON {self._same(key)} "
            f"WHERE t.{AUDIENCE} <> r.{WANTED};",
        )

    def _parentless_function(self) -> str:
        """Which of some rows have a foreign key that points nowhere."""
        missing = " OR ".join(
            f"({' AND '.join(f't.{quoted(c)} IS NOT NULL' for c in fk.columns)} AND "
            f"NOT EXISTS (SELECT FROM public.{quoted(fk.parent)} AS p WHERE "
            + " AND ".join(
                f"p.{quoted(of)} = t.{quoted(c)}"
                for c, of in zip(fk.columns, fk.parent_columns, strict=True)
            )
            + "))"
            for fk in self.table.foreign_keys
        )
        return _function(
            f"parentless_{self.name}(rows json) RETURNS SETOF bigint",
            f"SELECT r.{PLACE} FROM {self._rows('rows', self.table.key)} "
            f"JOIN {self.live} AS t ON {self._same(self.table.key)} WHERE {missing};",
        )

    def _orphans_function(self, i: int, foreign_key: ForeignKey, parent: Table) -> str:
        """Which of some parents are not there, though rows refer to them by a foreign key."""
        pairs = list(zip(foreign_key.columns, foreign_key.parent_columns, strict=True))
        parents = ServerTable(parent)
        refers = " AND ".join(f"t.{quoted(c)} = {parents._value(of)}" for c, of in pairs)
        there = " AND ".join(f"p.{quoted(of)} = {parents._value(of)}" for _, of in pairs)
        return _function(
            f"orphans_{i}_{self.name}(rows json) RETURNS SETOF bigint",
            f"SELECT r.{PLACE} FROM {parents._rows('rows', foreign_key.parent_columns)} "
            f"WHERE EXISTS (SELECT FROM {self.live} AS t WHERE {refers}) "
            f"AND NOT EXISTS (SELECT FROM {parents.live} AS p WHERE {there});",
        )

    # ---- pieces -----------------------------------------------------------------------

    def _written(self) -> str:
        """Inserts `rows` into the live table: `r` as they were given, `written` as they are."""
        names = [column.name for column in self.table.columns]
        returned = dict.fromkeys([*self.table.key, AUDIENCE])
        return (
            f"WITH r AS MATERIALIZED (SELECT * FROM {self._rows('rows', names, wanted=True)}), "
            f"written AS (INSERT INTO {self.live} ({listed(names)}) "
            f"SELECT {self._values(names)} FROM r RETURNING {listed(returned)})"
        )

    def _rows(self, rows: str, names: Iterable[str], *, wanted: bool = False) -> str:
        columns = [f"{PLACE} bigint", *([f"{WANTED} text"] if wanted else [])]
        columns += [f"{quoted(name)} {self._type(name)}" for name in names]
        return f"json_to_recordset({rows}::json) AS r ({', '.join(columns)})"

    def _type(self, name: str) -> str:
        type = self.table.column(name).type
        return "text" if isinstance(type, Bytes) else type.declared

    def _value(self, name: str) -> str:
        value = f"r.{quoted(name)}"
        is_bytes = isinstance(self.table.column(name).type, Bytes)
        return f"decode({value}, 'base64')" if is_bytes else value

    def _values(self, names: Iterable[str]) -> str:
        return ", ".join(map(self._value, names))

    def _same(self, key: Iterable[str]) -> str:
        return " AND ".join(f"t.{quoted(name)} = {self._value(name)}" for name in key)


def _function(head: str, body: str, *, security: Literal["DEFINER", "INVOKER"] = "DEFINER") -> str:
    return (
        f"CREATE OR REPLACE FUNCTION synchrotron.{head} LANGUAGE sql SECURITY {security} "
        f"SET search_path = '' BEGIN ATOMIC {body} END"
    )


def wire_sql(column: Column, of: str) -> str:
    """A value of a row in wire form."""
    value = f"{of}.{quoted(column.name)}"
    match column.type:
        case Bytes():
            return f"translate(encode({value}, 'base64'), E'\\n', '')"
        case Timestamp(declared="TIMESTAMPTZ"):
            return f"to_char({value} AT TIME ZONE 'UTC', '{_MOMENT}')"
        case Timestamp():
            return f"to_char({value}, '{_MOMENT}')"
        case Numeric():
            return f"{value}::text"
        case _:
            return value


_MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'


# ---- the author's statements, for PostgreSQL ---------------------------------------------


def server_statement(text: str, schema: Schema) -> str:
    """A statement of the schema as PostgreSQL runs it.

    Foreign keys are checked at the end of a transaction, and their ON DELETE actions are left
    out: the patches contain what replicas cascaded, and a cascade here would delete children
    that history keeps. In generated columns, `||` with a UUID or a number is not immutable to
    PostgreSQL, and with its text is.
    """
    [statement] = ddl.split(text)
    part = ddl.read(statement)
    if isinstance(part, ddl.CreateIndex):
        return text
    table = schema.tables[part.name]
    definitions = part.definitions if isinstance(part, ddl.CreateTable) else (part.definition,)
    changes = [change for d in definitions for change in _changes(d, table)]
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _changes(definition: ddl.Definition, table: Table) -> Iterator[tuple[int, int, str]]:
    words = [token.word for token in definition.top]
    for at, word in enumerate(words):
        if word == "REFERENCES":
            end = ddl._end_of_reference(words, at)
            start = at + (4 if words[at + 2 : at + 3] == ["("] else 2)
            deferred = words[end : end + 1] == ["DEFERRABLE"]
            yield (
                definition.top[start - 1].end,
                definition.top[end - 1].end,
                "" if deferred else " DEFERRABLE INITIALLY DEFERRED",
            )
    expression = definition.expression or ()
    kinds = {column.name: column.type for column in table.all_columns}
    for before, token, after in zip(
        (None, *expression), expression, (*expression[1:], None), strict=False
    ):
        joined = "||" in (before.word if before else "", after.word if after else "")
        kind = kinds.get(token.text.strip('"').lower())
        if joined and isinstance(kind, Uuid | Integer):
            yield token.end, token.end, "::text"


# ---- defaults --------------------------------------------------------------------------


class Defaults:
    """What rows hold in columns that their author's schema did not have yet (S11)."""

    def __init__(self, schema: Schema) -> None:
        literals = apsw.Connection(":memory:")
        self._values = {t.name: dict(_defaults(literals, t)) for t in schema.tables.values()}
        literals.close()

    def complete(self, table: str, values: Values) -> Values:
        defaults = self._values[table]
        return values if len(values) == len(defaults) else {**defaults, **values}


def _defaults(literals: apsw.Connection, table: Table) -> Iterator[tuple[str, Any]]:
    for column in table.columns:
        stored = literals.execute(f"SELECT {column.default or 'NULL'}").get
        yield column.name, None if stored is None else column.type.to_wire(stored)


def placed(place: int, audience: Audience, row: str) -> str:
    """One of the rows that the statements above take, where its text is there already."""
    return f'{{"{PLACE}":{place},"{WANTED}":{text_of(audience)},{row[1:]}'


def rows_json(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> str:
    """Rows and their places, as the statements above take them."""
    return json_text([{**values, PLACE: place} for place, values in rows])
