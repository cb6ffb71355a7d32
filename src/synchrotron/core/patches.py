"""Patches: the net change that one action made to one row (A8).

Values are in their *wire form*: JSON's own types, by column type. A patch keeps the
canonical text of its columns and is compared by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.ids import Audience, Seq

Values = Mapping[str, Any]
"""A row, or some columns of it, in wire form. Generated columns are not part of it."""


class RowKey(NamedTuple):
    """A table and a primary key of one or several columns, in wire form."""

    table: str
    key: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.table} {', '.join(map(str, self.key))}"


class Target(NamedTuple):
    """What a patch applies to: a row key in an audience (S9)."""

    table: str
    key: tuple[Any, ...]
    audience: Audience

    @property
    def row(self) -> RowKey:
        return RowKey(self.table, self.key)


class Patch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An `insert` (all columns), an `update` (changed columns) or a `delete`.

    `columns` is a JSON object in canonical form; `{}` for a delete.
    """

    op: Literal["insert", "update", "delete"]
    columns: str

    @property
    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = decode(self.columns)
        return values


DELETE = Patch("delete", "{}")


def insert(values: Values) -> Patch:
    return Patch("insert", text_of(values))


def update(values: Values) -> Patch:
    return Patch("update", text_of(values))


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A patch as the server last gave it; `patch` is None where a correction removed it.

    `basis` is the seq up to which it takes everything into account.
    """

    patch: Patch | None
    seq: Seq
    basis: Seq
