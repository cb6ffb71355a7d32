"""What messages propose to write, before it is in any table.

A patch has the form that its table prescribes. In which audience its row would be is for
SQLite to say (S9), which also makes the generated columns of real rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synchrotron.app.schema import AUDIENCE, Column, Schema, Table
from synchrotron.core.canonical import canonical
from synchrotron.core.ids import Audience
from synchrotron.core.messages import RowPatch
from synchrotron.core.patches import Values
from synchrotron.testing.server_tables import insertion, new_database, quoted, to_python


class Proposals:
    """Reads proposed patches and rows by an application's schema.

    For the audience of a row that is not there, a BEFORE INSERT trigger looks at the
    generated columns and then has the row ignored: so what is proposed goes through the
    columns' affinities, and meets no constraint.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._columns = {t.name: {c.name: c for c in t.columns} for t in schema.tables.values()}
        self._audience: Any = None
        self._connection = new_database(schema)
        self._connection.create_scalar_function("synchrotron_audience", self._note, 1)
        for table in schema.tables.values():
            self._connection.execute(
                f"CREATE TEMP TRIGGER {quoted(f'synchrotron_{table.name}')} "
                f"BEFORE INSERT ON main.{quoted(table.name)} BEGIN "
                f"SELECT synchrotron_audience(NEW.{AUDIENCE}); SELECT RAISE(IGNORE); END"
            )

    def _note(self, *audience: Any) -> None:
        (self._audience,) = audience

    def audience_of(self, name: str, values: Values) -> Audience | None:
        """The audience that a row would have. Raises one of `server_tables.UNFIT`."""
        table = self._schema.tables[name]
        if table.audience_expression is None:
            self._audience = values.get(AUDIENCE)
        else:
            self._connection.execute(*insertion(table, values))
        return self._audience if self._audience is None else Audience(self._audience)

    def python_row(self, name: str, values: Values, audience: Audience) -> Mapping[str, Any]:
        """A row in wire form as Python values, with its audience."""
        stored = self._schema.tables[name].stored(values)
        row = {n: to_python(column, stored.get(n)) for n, column in self._columns[name].items()}
        return {**row, AUDIENCE: audience}

    # ---- form ---------------------------------------------------------------------

    def fault(self, sent: RowPatch) -> str | None:
        """What keeps a patch from being one of its table's, if anything does."""
        table = self._schema.tables.get(sent.table)
        if table is None:
            return f"{sent.table} is not a table of this application"
        return self.key_fault(table, sent.key) or self._values_fault(table, sent)

    def key_fault(self, table: Table, key: list[Any]) -> str | None:
        """What keeps a key from being one of this table's, if anything does."""
        if len(key) != len(table.key):
            return f"its key has other columns: {', '.join(table.key)}"
        columns = self._columns[table.name]
        for name, value in zip(table.key, key, strict=True):
            if fault := _key_value_fault(columns[name], value):
                return f"table {table.name}, column {name}: {fault}"
        return None

    def _values_fault(self, table: Table, sent: RowPatch) -> str | None:
        values = sent.values or {}
        if unknown := values.keys() - self._columns[table.name].keys():
            return f"table {table.name} has no column {min(unknown)} that could be written"
        try:
            table.check_values(values)
            canonical(values)
        except ValueError as error:
            return str(error)
        if sent.op == "insert" and [values.get(name) for name in table.key] != sent.key:
            return "an insert holds the values of its key"
        if sent.op == "update" and not values.keys().isdisjoint(table.key):
            return "an update does not change a key: delete the row and insert another"
        return None


def _key_value_fault(column: Column, value: Any) -> str | None:
    """What is wrong with a value of a key. It has one spelling, or two keys would be one row."""
    if value is None:
        return "a key has no NULL"
    try:
        wire = column.type.to_wire(column.type.from_wire(value))
        return None if canonical(wire) == canonical(value) else f"it is written {canonical(wire)}"
    except ValueError as error:
        return str(error)
