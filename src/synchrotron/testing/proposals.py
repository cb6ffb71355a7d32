"""What messages propose to write, before it is in any table.

A patch has the form that its table prescribes. In which audience its row would be is for
SQLite to say (S9), which also makes the generated columns of real rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synchrotron.app.schema import AUDIENCE, Schema
from synchrotron.core.ids import Audience
from synchrotron.core.patches import Values
from synchrotron.server.form import Form
from synchrotron.testing.server_tables import insertion, new_database, quoted, to_python


class Proposals(Form):
    """Reads proposed patches and rows by an application's schema.

    For the audience of a row that is not there, a BEFORE INSERT trigger looks at the
    generated columns and then has the row ignored: so what is proposed goes through the
    columns' affinities, and meets no constraint.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
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
        table = self.schema.tables[name]
        if table.audience_expression is None:
            self._audience = values.get(AUDIENCE)
        else:
            self._connection.execute(*insertion(table, values))
        return self._audience if self._audience is None else Audience(self._audience)

    def python_row(self, name: str, values: Values, audience: Audience) -> Mapping[str, Any]:
        """A row in wire form as Python values, with its audience."""
        stored = self.schema.tables[name].stored(values)
        row = {n: to_python(column, stored.get(n)) for n, column in self._columns[name].items()}
        return {**row, AUDIENCE: audience}
