"""SQLAlchemy's column types in the forms that synced columns have (see `app.types`).

Going in, a value passes as it is: what is given to SQLite, by the value's Python type, is
decided in one place, `app.types.bind`. (SQLAlchemy's own DateTime for SQLite would lose
the offset, its Uuid the dashes, its JSON the canonical text.) Coming out, a plain column
is in its Python form already; an expression is as SQLite gives it, and is read here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import types
from sqlalchemy.engine import Dialect

from synchrotron.core.canonical import canonical

Process = Callable[[Any], Any] | None


class _AsItIs:
    """Bound by the value's own type."""

    def bind_processor(self, dialect: Dialect) -> Process:
        return None


class Moment(_AsItIs, types.DateTime):
    """TIMESTAMP and TIMESTAMPTZ: aware, in UTC."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return _reading(str, datetime.fromisoformat)


class Day(_AsItIs, types.Date):
    """DATE."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return _reading(str, date.fromisoformat)


class Truth(_AsItIs, types.Boolean):
    """BOOLEAN."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return _reading(int, bool)


class Identifier(_AsItIs, types.Uuid[Any]):
    """UUID, with its dashes."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return _reading(str, UUID) if self.as_uuid else _reading(UUID, str)


class Number(_AsItIs, types.Numeric[Any]):
    """NUMERIC(p,s)."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        if not self.asdecimal:
            return _reading(Decimal, float)
        # As a column of this scale would read it; a sum of floats has noise beyond.
        scale = self.scale
        return _reading(
            int | float, lambda x: Decimal(str(x) if scale is None else f"{x:.{scale}f}")
        )


class Json(types.JSON):
    """JSON and JSONB. None is NULL: a JSON column holds objects and arrays (`app.types.Json`)."""

    def bind_processor(self, dialect: Dialect) -> Process:
        def bind(value: Any) -> Any:
            if value is None or isinstance(value, dict | list):
                return value
            # A scalar is compared with a part of a document, which SQLite gives as its text.
            return "null" if value is types.JSON.NULL else canonical(value)

        return bind

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return _reading(str, msgspec.json.decode)


def _reading(stored: Any, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Read what is in this stored form; anything else is NULL, or in its Python form."""
    return lambda value: read(value) if isinstance(value, stored) else value


COLUMN_TYPES: dict[Any, Any] = {
    types.DateTime: Moment,
    types.Date: Day,
    types.Boolean: Truth,
    types.Uuid: Identifier,
    types.Numeric: Number,
    types.Float: types.Float,  # before SQLAlchemy 2.1 a kind of Numeric
    types.JSON: Json,
}
