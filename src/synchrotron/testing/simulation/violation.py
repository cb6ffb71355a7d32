"""Violations: which rule a history broke, in words that an application's author knows."""

from __future__ import annotations

from collections.abc import Sequence

from synchrotron.app.schema import Schema
from synchrotron.testing.oracle import RawTables, columns_of

DIFFERENCES_MAX = 8


class Violation(Exception):
    """A rule is broken: `rule` is its number in SPEC.md, or a name."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule
        self.what = what


def differences(schema: Schema, held: RawTables, wanted: RawTables, should: str) -> str:
    """Where two databases differ, a line each."""
    lines: list[str] = []
    for name, table in schema.tables.items():
        columns = columns_of(schema, name)
        places = [columns.index(key) for key in table.key]
        one = {tuple(row[i] for i in places): row for row in held[name]}
        two = {tuple(row[i] for i in places): row for row in wanted[name]}
        lines += [
            f"{name} {', '.join(map(str, key))}: {line}"
            for key in sorted(one.keys() | two.keys(), key=repr)
            if (line := _difference(columns, one.get(key), two.get(key), should))
        ]
    more = len(lines) - DIFFERENCES_MAX
    shown = lines[:DIFFERENCES_MAX] + ([f"… and {more} more rows"] if more > 0 else [])
    return "\n".join(f"  {line}" for line in shown)


def _difference(
    columns: Sequence[str],
    held: tuple[object, ...] | None,
    wanted: tuple[object, ...] | None,
    should: str,
) -> str | None:
    if held == wanted and list(map(type, held or ())) == list(map(type, wanted or ())):
        return None
    if held is None:
        return f"is not there; {should} it is {_values(columns, wanted)}"
    if wanted is None:
        return f"is {_values(columns, held)}; {should} it is not there"
    pairs = zip(columns, held, wanted, strict=True)
    return "; ".join(
        f"{name} is {one!r}, {should} {two!r}"
        for name, one, two in pairs
        if one != two or type(one) is not type(two)
    )


def _values(columns: Sequence[str], row: tuple[object, ...] | None) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in zip(columns, row or (), strict=True))
