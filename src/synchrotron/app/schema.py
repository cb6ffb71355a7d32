"""The schema: the author's SQL, checked, completed for SQLite, and read back from it.

`read_schema` lets SQLite itself read the SQL in a database in memory, takes the tables
from its PRAGMAs, and refuses what could not be kept in sync: each `SchemaError` names
table and column and says what to write instead.

A row has two shapes. A *full* row has every column in SQLite's order, as `SELECT *` and
the preupdate hook give it. An *image* leaves the generated columns out: it is what can
be written. Both are tuples in stored form; patches and keys are in wire form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, TypeAlias

import apsw

from synchrotron.app import ddl
from synchrotron.app.types import (
    Boolean,
    Bytes,
    ColumnType,
    Double,
    Integer,
    Json,
    Numeric,
    Stored,
    Text,
    Uuid,
    column_type,
    shown,
)
from synchrotron.errors import SchemaError, ValueRefused

AUDIENCE = "audience_key"
NEW_ID_LENGTH = 36

_VIRTUAL, _STORED = 2, 3  # the column `hidden` of PRAGMA table_xinfo
_LITERAL = re.compile(r"(?P<string>'(?:[^']|'')*')|(?P<number>[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)", re.I)

Full: TypeAlias = Sequence[Any]
Image: TypeAlias = tuple[Any, ...]
Convert: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Column:
    """A column.

    `default` is the SQL of a literal, None where nothing is declared; `default_stored` is
    what it puts into a row.
    """

    name: str
    type: ColumnType
    not_null: bool = False
    generated: bool = False
    default: str | None = None
    default_stored: Stored = None


@dataclass(frozen=True)
class ForeignKey:
    """Columns that name a row of `parent` by its primary key or by UNIQUE columns."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A synced table, and the ways between the shapes and forms of its rows.

    `all_columns` are in SQLite's order, `key` is in the key's order. `audience_expression`
    is the SQL from which `audience_key` is generated, None where it is a plain column.
    """

    name: str
    all_columns: tuple[Column, ...]
    key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    audience_expression: str | None

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What can be written: the columns of an image."""
        return tuple(column for column in self.all_columns if not column.generated)

    @cached_property
    def generated(self) -> tuple[Column, ...]:
        return tuple(column for column in self.all_columns if column.generated)

    def position(self, column: str) -> int:
        """A column's place in a full row."""
        return self._positions[column]

    def column(self, name: str) -> Column:
        return self.all_columns[self._positions[name]]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {column.name: position for position, column in enumerate(self.all_columns)}

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """What columns hold in rows from before they were added, in wire form."""
        return {
            c.name: None if c.default_stored is None else c.type.to_wire(c.default_stored)
            for c in self.columns
        }

    @cached_property
    def real_positions(self) -> frozenset[int]:
        """The DOUBLE PRECISION columns among all."""
        return frozenset(
            at
            for at, column in enumerate(self.all_columns)
            if column.type.declared == "DOUBLE PRECISION"
        )

    @cached_property
    def key_positions(self) -> tuple[int, ...]:
        return tuple(map(self.position, self.key))

    @cached_property
    def image_positions(self) -> tuple[int, ...]:
        return tuple(self.position(column.name) for column in self.columns)

    @cached_property
    def audience_position(self) -> int:
        return self.position(AUDIENCE)

    @cached_property
    def new_id_key(self) -> bool:
        """Whether an INSERT may leave the key out: it then gets `ctx.new_id` (A3)."""
        type = self.column(self.key[0]).type
        return len(self.key) == 1 and (
            isinstance(type, Uuid)
            or (isinstance(type, Text) and (type.length or NEW_ID_LENGTH) >= NEW_ID_LENGTH)
        )

    # What follows runs for every row that an action touches. Conversions are looked up once,
    # and only for the columns that need one (`ColumnType.plain`); NULL needs none.

    def image(self, row: Full) -> Image:
        """A full row without its generated columns."""
        return self._pick_image(row)

    def key_of(self, row: Full) -> tuple[Any, ...]:
        """The primary key of a full row, in wire form."""
        key = self._pick_key(row)
        if self._plain_key:
            return key
        return tuple(type.to_wire(part) for type, part in zip(self._key_types, key, strict=True))

    def stored_key(self, key: Sequence[Any]) -> tuple[Stored, ...]:
        """A primary key in wire form, as SQLite holds it. Raises `ValueError`."""
        if self._plain_key:
            return tuple(key)
        return tuple(type.from_wire(part) for type, part in zip(self._key_types, key, strict=True))

    def values(self, image: Image) -> dict[str, Any]:
        """An image as a patch's columns: wire form by name, names sorted."""
        return {
            name: image[at] if to_wire is None or image[at] is None else to_wire(image[at])
            for name, at, to_wire in self._writers
        }

    def to_image(self, values: Mapping[str, Any]) -> Image:
        """The image of a complete row in wire form. Raises `ValueError`.

        A column that is missing was added later, and has its default; one that the table does
        not have is left out (S11). Columns of plain types are taken as they are:
        `check_values` has judged what came in.
        """
        if len(values) < len(self._parsers):
            values = {**self._defaults, **values}
        get = values.get
        return tuple(
            [
                wire if (wire := get(name)) is None or from_wire is None else from_wire(wire)
                for name, from_wire in self._parsers.items()
            ]
        )

    def completed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A complete row, with the defaults of columns that its author did not have yet (S11)."""
        return values if self.is_complete(values) else {**self._defaults, **values}

    def is_complete(self, values: Mapping[str, Any]) -> bool:
        return self._parsers.keys() <= values.keys()

    def stored(self, values: Mapping[str, Any]) -> dict[str, Stored]:
        """Some columns, as `to_image` has them, by name; unknown ones are left out (S11)."""
        parsers = self._parsers
        return {
            name: wire if wire is None or (parse := parsers[name]) is None else parse(wire)
            for name, wire in values.items()
            if name in parsers
        }

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Judge values from a message: raises `ValueError` naming table and column."""
        for name, value in values.items():
            if value is not None and name in self._parsers:
                column = self.column(name)
                try:
                    column.type.from_wire(value)
                except ValueError as error:
                    raise ValueError(f"table {self.name}, column {name}: {error}") from error

    def check_image(self, row: Full) -> None:
        """Judge a full row at the end of an action.

        Raises `ValueRefused` for a value that is not in its column's form.
        """
        for position, is_text, check in self._checks:
            value = row[position]
            if value is None:
                continue
            # Most are plain texts: those are told here, without a call for each.
            if is_text and type(value) is str and value.isascii() and "\0" not in value:
                continue
            if complaint := check(value):
                raise self._refused(row, position, f"{shown(value)} {complaint}")
        if row[self.audience_position] is None:
            complaint = "is NULL: every row belongs to an audience, such as 'project:42'"
            raise self._refused(row, self.audience_position, complaint)

    def has_columns(self, values: Mapping[str, Any]) -> bool:
        """Whether every name is a column that can be written here (S11)."""
        return values.keys() <= self._parsers.keys()

    def denotes(
        self,
        key: Sequence[Any],
        image: Image | None,
        columns: Sequence[str],
        values: Sequence[Stored],
    ) -> bool:
        """Whether a row, given by its key and, where known, its image, has these stored values."""
        held = dict(zip(self._parsers, image or (), strict=False))
        held.update(zip(self.key, self.stored_key(key), strict=True))
        pairs = zip(columns, values, strict=True)
        return all(column in held and held[column] == value for column, value in pairs)

    def reader(self, column: str | None) -> Convert | None:
        """What turns a column's stored values into Python's; None where nothing is to be done."""
        return self._readers.get(column)

    def _refused(self, row: Full, position: int, complaint: str) -> ValueRefused:
        key = ", ".join(map(str, self._pick_key(row)))
        column = self.all_columns[position].name
        return ValueRefused(f"table {self.name}, row {key}, column {column}: {complaint}")

    @cached_property
    def _pick_image(self) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        return _picker(self.image_positions)

    @cached_property
    def _pick_key(self) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        return _picker(self.key_positions)

    @cached_property
    def _key_types(self) -> tuple[ColumnType, ...]:
        return tuple(self.column(name).type for name in self.key)

    @cached_property
    def _plain_key(self) -> bool:
        return all(type.plain for type in self._key_types)

    @cached_property
    def _writers(self) -> tuple[tuple[str, int, Convert | None], ...]:
        """Name, place in the image and `to_wire` of each column, by name."""
        return tuple(
            sorted(
                (column.name, at, None if column.type.plain else column.type.to_wire)
                for at, column in enumerate(self.columns)
            )
        )

    @cached_property
    def _parsers(self) -> dict[str, Convert | None]:
        """`from_wire` of each column, in the order of an image."""
        return {c.name: None if c.type.plain else c.type.from_wire for c in self.columns}

    @cached_property
    def _checks(self) -> tuple[tuple[int, bool, Callable[[Stored], str | None]], ...]:
        return tuple(
            (position, column.type.declared == "TEXT", column.type.check)
            for position, column in enumerate(self.all_columns)
        )

    @cached_property
    def _readers(self) -> dict[str | None, Convert]:
        same = ColumnType.to_python
        return {
            column.name: column.type.to_python
            for column in self.all_columns
            if type(column.type).to_python is not same
        }


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What takes these positions out of a tuple, always as a tuple."""
    if len(positions) == 1:
        (only,) = positions
        return lambda row: (row[only],)
    return itemgetter(*positions)


@dataclass(frozen=True)
class Schema:
    """The tables of an application, parents before children where foreign keys allow it.

    `statements` are what SQLite runs to make them, in the order of the source; `source` is
    the SQL that the author wrote.
    """

    tables: dict[str, Table]
    statements: tuple[str, ...]
    source: str


# --- Reading ---------------------------------------------------------------------------


def read_schema(sql: str) -> Schema:
    """Read and check a schema. Raises `SchemaError`, which says what to write instead."""
    author, completed = _trial(), _trial()
    try:
        parts = [_run_as_written(author, statement) for statement in ddl.split(sql)]
        tables = _read_tables(author, parts)
        statements = tuple(_complete(part, tables) for part in parts)
        for statement in statements:
            _execute(completed, statement)
    finally:
        author.close()
        completed.close()
    return Schema(_parents_first(tables), statements, sql)


def _trial() -> apsw.Connection:
    """A database to try the schema on, as strict as PostgreSQL about "strings"."""
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
    connection.create_scalar_function(ddl.NEW_ID, _no_id, 1)
    return connection


def _no_id(*_: Any) -> str:
    return ""


def _execute(connection: apsw.Connection, statement: str) -> None:
    try:
        connection.execute(statement)
    except apsw.Error as error:
        raise SchemaError(f"SQLite refuses this statement: {error}\n{statement}") from error


def _run_as_written(author: apsw.Connection, statement: ddl.Statement) -> ddl.SchemaStatement:
    try:
        part = ddl.read(statement)
    except SchemaError as error:
        raise SchemaError(f"{error}\n{statement.text}") from error
    _execute(author, statement.text)
    return part


def _complete(part: ddl.SchemaStatement, tables: Mapping[str, Table]) -> str:
    match part:
        case ddl.CreateTable():
            table = tables[part.name]
            return part.complete(table.key[0] if table.new_id_key else None)
        case ddl.AddColumn():
            return part.complete()
        case ddl.CreateIndex():
            return part.statement.text


def _read_tables(db: apsw.Connection, parts: Sequence[ddl.SchemaStatement]) -> dict[str, Table]:
    definitions: dict[str, list[ddl.Definition]] = {}
    for part in parts:
        match part:
            case ddl.CreateTable():
                definitions[part.name] = list(part.definitions)
            case ddl.AddColumn():
                definitions[part.name].append(part.definition)
    if not definitions:
        raise SchemaError("the schema has no table: write at least one CREATE TABLE")
    tables = {name: _read_table(db, name, written) for name, written in definitions.items()}
    for part in parts:
        if isinstance(part, ddl.AddColumn):
            _check_added(tables[part.name], part.definition)
    for table in tables.values():
        _check_foreign_keys(db, table, tables)
    return tables


def _read_table(db: apsw.Connection, name: str, definitions: list[ddl.Definition]) -> Table:
    written = {d.column: d for d in definitions if d.column is not None}
    for column in written:
        ddl.check_name(column, f"table {name}, column")
    rows = _query(db, "SELECT * FROM pragma_table_xinfo(?) ORDER BY cid", name)
    expression = written[AUDIENCE].expression if AUDIENCE in written else None
    table = Table(
        name=name,
        all_columns=tuple(_read_column(db, name, row) for row in rows),
        key=_primary_key(db, name),
        foreign_keys=tuple(_foreign_keys(db, name)),
        audience_expression=" ".join(token.text for token in expression) if expression else None,
    )
    _check_key(table)
    _check_audience(table)
    for generated in table.generated:
        _check_expression(table, written[generated.name])
    return table


def _read_column(db: apsw.Connection, table: str, row: tuple[Any, ...]) -> Column:
    _, name, declared, not_null, default, key_order, hidden = row
    where = f"table {table}, column {name}"
    try:
        type = column_type(declared)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error
    if hidden == _VIRTUAL:
        raise SchemaError(f"{where}: a virtual column; write GENERATED ALWAYS AS (…) STORED")
    if key_order:
        _check_key_column(where, type, default)
    stored = None
    if default is not None:
        stored = _check_default(db, where, type, default)
    return Column(name, type, bool(not_null or key_order), hidden == _STORED, default, stored)


def _foreign_keys(db: apsw.Connection, table: str) -> Iterator[ForeignKey]:
    # SQLite counts them from the last one declared.
    rows = _query(
        db,
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id DESC, seq',
        table,
    )
    for id in dict.fromkeys(row[0] for row in rows):
        columns, parents = zip(*[row[2:] for row in rows if row[0] == id], strict=True)
        parent = next(row[1] for row in rows if row[0] == id).lower()
        if parents[0] is None:
            parents = _primary_key(db, parent)
        yield ForeignKey(tuple(map(str.lower, columns)), parent, tuple(map(str.lower, parents)))


def _primary_key(db: apsw.Connection, table: str) -> tuple[str, ...]:
    rows = _query(db, "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk", table)
    return tuple(name for (name,) in rows)


def _query(db: apsw.Connection, sql: str, name: str) -> list[tuple[Any, ...]]:
    return db.execute(sql, (name,)).fetchall()


def _parents_first(tables: Mapping[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}
    begun: set[str] = set()

    def place(table: Table) -> None:
        if table.name in begun:
            return
        begun.add(table.name)
        for foreign_key in table.foreign_keys:
            place(tables[foreign_key.parent])
        ordered[table.name] = table

    for table in tables.values():
        place(table)
    return ordered


# --- Checks ----------------------------------------------------------------------------


def _check_key(table: Table) -> None:
    if not table.key:
        raise SchemaError(f"table {table.name}: it has no primary key; write id TEXT PRIMARY KEY")
    (first, *more) = [table.column(name) for name in table.key]
    if not more and first.type.declared == "INTEGER":
        raise SchemaError(
            f"table {table.name}, column {first.name}: INTEGER as the whole primary key is a row "
            "id in SQLite. Write TEXT PRIMARY KEY, and the system makes the ids; or BIGINT for "
            "numbers that the application itself chooses"
        )


def _check_key_column(where: str, type: ColumnType, default: str | None) -> None:
    if isinstance(type, Json | Double):
        raise SchemaError(f"{where}: {type.declared} cannot be part of a key; write TEXT")
    if default is not None:
        raise SchemaError(
            f"{where}: a key has no DEFAULT of its own; leave it out. A single TEXT or UUID key "
            "that an INSERT omits is made by the system"
        )


def _check_audience(table: Table) -> None:
    where = f"table {table.name}, column {AUDIENCE}"
    if AUDIENCE not in {column.name for column in table.all_columns}:
        raise SchemaError(
            f"table {table.name}: it has no {AUDIENCE}, which says who may see a row; write "
            f"{AUDIENCE} TEXT GENERATED ALWAYS AS ('project:' || project_id) STORED"
        )
    column = table.column(AUDIENCE)
    if column.type.declared != "TEXT":
        raise SchemaError(f"{where}: {column.type.declared} cannot name an audience; write TEXT")
    if not column.generated and not column.not_null:
        raise SchemaError(f"{where}: every row belongs to an audience; write TEXT NOT NULL")


def _check_expression(table: Table, written: ddl.Definition) -> None:
    """A generated column must be one to PostgreSQL too, and the same one."""
    where = f"table {table.name}, column {written.column}"
    if not written.has("GENERATED", "ALWAYS", "AS"):
        raise SchemaError(f"{where}: PostgreSQL wants GENERATED ALWAYS AS (…) STORED")
    tokens = written.expression or ()
    words = ["", *(token.word for token in tokens), "", ""]
    columns = {column.name: column for column in table.all_columns}
    for at, token in enumerate(tokens, start=1):
        column = columns.get(token.text.strip('"').lower())
        if column is None:
            continue
        if column.generated:
            raise SchemaError(f"{where}: {column.name} is generated itself; repeat its expression")
        joined = "||" in (words[at - 1], words[at + 1])
        cast = words[at + 1 : at + 3] == ["AS", "TEXT"]
        if (joined or cast) and not column.type.textual:
            raise SchemaError(
                f"{where}: SQLite and PostgreSQL make different text of {column.name}, a "
                f"{column.type.declared}; use a TEXT, UUID or integer column, or CASE WHEN"
            )


def _check_default(db: apsw.Connection, where: str, type: ColumnType, default: str) -> Stored:
    """Judge a DEFAULT; give what it puts into a row."""
    literal = default.strip().upper()
    if literal == "NULL":
        return None
    match = _LITERAL.fullmatch(default.strip())
    kind = match.lastgroup if match else "truth" if literal in ("TRUE", "FALSE") else None
    if kind is None:
        raise SchemaError(
            f"{where}: DEFAULT {default} is not a literal; write a number, 'text', TRUE, FALSE or "
            "NULL, and let the action work out the rest"
        )
    if isinstance(type, Bytes):
        raise SchemaError(
            f"{where}: SQLite and PostgreSQL share no literal for bytes; leave the DEFAULT out"
        )
    wanted = "string"
    if isinstance(type, Boolean):
        wanted = "truth"
    elif isinstance(type, Integer | Double | Numeric):
        wanted = "number"
    if kind != wanted:
        write = {"truth": "TRUE or FALSE", "number": "a number", "string": "text in quotes"}[wanted]
        raise SchemaError(
            f"{where}: DEFAULT {default} does not suit {type.declared}; write {write}"
        )
    stored = _as_stored(db, type, default)
    if complaint := type.check(stored):
        raise SchemaError(f"{where}: DEFAULT {default} {complaint}")
    return stored


def _as_stored(db: apsw.Connection, type: ColumnType, default: str) -> Stored:
    """What a column of this type holds when this literal is written into it."""
    db.execute(f"CREATE TEMP TABLE synchrotron_probe (x {type.declared} DEFAULT {default})")
    try:
        db.execute("INSERT INTO temp.synchrotron_probe DEFAULT VALUES")
        stored: Stored = db.execute("SELECT x FROM temp.synchrotron_probe").get
        return stored
    finally:
        db.execute("DROP TABLE temp.synchrotron_probe")


def _check_added(table: Table, written: ddl.Definition) -> None:
    """SQLite itself minds these only where there are rows, as there are on users' machines."""
    column = table.column(str(written.column))
    where = f"table {table.name}, column {column.name}"
    empty = column.default is None or column.default.upper() == "NULL"
    if column.generated:
        raise SchemaError(
            f"{where}: a generated column cannot be added later; add a plain one, or a new table"
        )
    if column.not_null and empty:
        raise SchemaError(
            f"{where}: rows that are there already need a value; write a DEFAULT, or leave "
            "NOT NULL out"
        )
    if written.has("REFERENCES") and not empty:
        raise SchemaError(
            f"{where}: a foreign key that is added later starts as NULL; leave the DEFAULT out"
        )


def _check_foreign_keys(db: apsw.Connection, table: Table, tables: Mapping[str, Table]) -> None:
    for foreign_key in table.foreign_keys:
        where = f"table {table.name}, foreign key {', '.join(foreign_key.columns)}"
        parent = tables.get(foreign_key.parent)
        if parent is None:
            raise SchemaError(f"{where}: there is no table {foreign_key.parent} in the schema")
        names = ", ".join(foreign_key.parent_columns)
        if frozenset(foreign_key.parent_columns) not in _unique_columns(db, parent):
            raise SchemaError(
                f"{where}: {parent.name} ({names}) is neither the primary key nor UNIQUE; "
                f"refer to {parent.name} ({', '.join(parent.key)})"
            )
        for child, of in zip(foreign_key.columns, foreign_key.parent_columns, strict=True):
            mine = table.column(child).type
            theirs = parent.column(of).type
            if type(mine) is not type(theirs):
                raise SchemaError(
                    f"{where}: {child} is {mine.declared} and {parent.name}.{of} is "
                    f"{theirs.declared}; declare both alike"
                )


def _unique_columns(db: apsw.Connection, table: Table) -> set[frozenset[str | None]]:
    """The sets of columns that name at most one row. An expression among them counts as None."""
    indexes = _query(
        db, 'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', table.name
    )
    return {frozenset(table.key)} | {
        frozenset(name for (name,) in _query(db, "SELECT name FROM pragma_index_info(?)", index))
        for (index,) in indexes
    }
