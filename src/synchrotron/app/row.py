"""Rows as applications see them: read-only mappings from column name to Python value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Row(Mapping[str, Any]):
    """One row of a result: `row["text"]`, in the order of the query's columns."""

    __slots__ = ("_positions", "_values")

    def __init__(self, positions: dict[str, int], values: tuple[Any, ...]) -> None:
        self._positions = positions
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[self._positions[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def as_tuple(self) -> tuple[Any, ...]:
        """The values alone, in the order of the query's columns."""
        return self._values

    def __repr__(self) -> str:
        return f"Row({dict(self)!r})"
