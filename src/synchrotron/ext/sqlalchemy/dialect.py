"""SQLAlchemy's SQLite dialect, for synced tables.

Statements are SQLite's. Column types in CREATE TABLE are those that SQLite and PostgreSQL
both take (`app.types`), and values pass in the forms of those types (`columns`).
"""

from __future__ import annotations

from types import MappingProxyType, ModuleType
from typing import Any

from sqlalchemy import pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.base import (
    SQLiteCompiler,
    SQLiteDDLCompiler,
    SQLiteDialect,
    SQLiteTypeCompiler,
)
from sqlalchemy.engine import Connection

from synchrotron.ext.sqlalchemy import driver
from synchrotron.ext.sqlalchemy.columns import COLUMN_TYPES

_MOMENT = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"


class Compiler(SQLiteCompiler):
    """`func.now()` is the context's moment, in the form of a TIMESTAMP column."""

    def visit_true(self, expr: Any, **kw: Any) -> str:
        return "TRUE"

    def visit_false(self, expr: Any, **kw: Any) -> str:
        return "FALSE"

    def visit_now_func(self, fn: Any, **kw: Any) -> str:
        return _MOMENT

    def visit_current_timestamp_func(self, fn: Any, **kw: Any) -> str:
        return _MOMENT


class DDLCompiler(SQLiteDDLCompiler):
    """Generated columns are stored ones."""

    def visit_computed_column(self, generated: Any, **kw: Any) -> str:
        text = self.sql_compiler.process(generated.sqltext, include_table=False, literal_binds=True)
        # PostgreSQL has no other; a virtual one is refused where the schema is read.
        kind = "VIRTUAL" if generated.persisted is False else "STORED"
        return f"GENERATED ALWAYS AS ({text}) {kind}"


class TypeCompiler(SQLiteTypeCompiler):
    """What is not here is refused, with what to write instead, where the schema is read."""

    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:
        return "TEXT" if type_.length is None else f"VARCHAR({type_.length})"

    visit_NVARCHAR = visit_VARCHAR

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:
        return "TIMESTAMPTZ" if type_.timezone else "TIMESTAMP"

    visit_TIMESTAMP = visit_DATETIME

    def visit_DATE(self, type_: Any, **kw: Any) -> str:
        return "DATE"

    def visit_DOUBLE(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE PRECISION"

    visit_FLOAT = visit_DOUBLE_PRECISION = visit_DOUBLE

    def visit_large_binary(self, type_: Any, **kw: Any) -> str:
        return "BYTEA"

    visit_BYTEA = visit_large_binary

    def visit_JSONB(self, type_: Any, **kw: Any) -> str:
        return "JSONB"

    def visit_uuid(self, type_: Any, **kw: Any) -> str:
        return "UUID"


class Dialect(SQLiteDialect):
    """What an engine for `synchrotron://` speaks."""

    driver = "synchrotron"
    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_native_uuid = True
    supports_native_enum = False
    statement_compiler = Compiler
    ddl_compiler = DDLCompiler
    type_compiler_cls = TypeCompiler
    colspecs = SQLiteDialect.colspecs | COLUMN_TYPES
    dbapi_exception_translation_map = MappingProxyType({"ConstraintError": "IntegrityError"})
    poolclass = pool.StaticPool

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return driver

    def initialize(self, connection: Connection) -> None:
        """Nothing is asked of the database: an action's statements are its own."""
        self.server_version_info = driver.sqlite_version_info


registry.register("synchrotron", __name__, "Dialect")
