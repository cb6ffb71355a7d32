"""Runs of an action that are compared: what each came to, and where two of them part.

An action's statements are noted with the lines that they stand at. Where two runs on the
same rows come out differently, the first statement in which they differ is where to look.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Container, Iterable, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import msgspec

from synchrotron.app.action import Action
from synchrotron.app.context import Parameters
from synchrotron.app.ddl import tokens_of
from synchrotron.app.row import Row
from synchrotron.app.schema import Table
from synchrotron.core.patches import RowKey
from synchrotron.core.records import ActionRecord
from synchrotron.errors import DeterminismWarning, ImpureAction
from synchrotron.replica.impurity import Site, site_of
from synchrotron.replica.runner import Runner
from synchrotron.store.capture import Change, Full
from synchrotron.store.database import is_machine_error
from synchrotron.store.store import Store

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


class Step(msgspec.Struct):
    """A statement of a run. What it was given and gave is kept as text."""

    site: Site | None
    sql: str
    params: str
    rows: str = ""
    writes: frozenset[str] = frozenset()

    @property
    def values(self) -> str:
        return f"with {short(self.params)}"

    def __str__(self) -> str:
        return f"{self.site or 'its end'}: {short(' '.join(self.sql.split()))} {self.values}"


class Told(msgspec.Struct):
    """What a run came to, as it can be compared, and sent to another process."""

    rows: list[tuple[RowKey, str, Full | None]]
    """Each row that it changed, the audience of that, and the row as it left it."""
    error: tuple[str, str] | None
    result: bytes | None
    """None where it is no plain value: then it is not compared."""
    steps: list[Step]

    def left(self, audiences: Container[str] | None = None) -> dict[RowKey, Full | None]:
        """The rows that it changed, as it left them; of these audiences alone."""
        return {
            row: new
            for row, audience, new in self.rows
            if audiences is None or audience in audiences
        }


class Attempt(NamedTuple):
    """A run."""

    result: Any
    changes: list[Change]
    error: Exception | None
    told: Told


class NotingRunner(Runner):
    """Runs actions and notes what they do."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._steps: list[Step] = []

    def attempt(self, action: Action[Any, Any], record: ActionRecord) -> Attempt:
        """Run an action. What it raises is part of what it came to; machine errors are not."""
        self._steps = []
        # An action may change its arguments: each run gets them anew.
        arguments = action.arguments(record.args)
        try:
            result, changes = Runner.run(self, action, record, arguments)
        except Exception as error:
            if is_machine_error(error) or isinstance(error, ImpureAction | DeterminismWarning):
                raise
            text = _ADDRESS.sub("0x…", str(error))
            told = Told([], (type(error).__name__, text), None, self._steps)
            return Attempt(None, [], error, told)
        rows = _rows(self.tables, changes)
        return Attempt(result, changes, None, Told(rows, None, _encoded(result), self._steps))

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]:
        step = self._note(sql, params)
        rows = super().execute(sql, params)
        step.rows, step.writes = repr(rows), self._statements.writes(sql)
        return rows

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        rows = list(rows)
        step = self._note(sql, rows)
        super().executemany(sql, rows)
        step.writes = self._statements.writes(sql)

    def _note(self, sql: str, params: Any) -> Step:
        site = site_of(sys._getframe(2), Runner.run.__code__)
        self._steps.append(Step(site, sql, repr(params)))
        return self._steps[-1]


def _rows(
    tables: Mapping[str, Table], changes: list[Change]
) -> list[tuple[RowKey, str, Full | None]]:
    found = []
    for change in changes:
        table, row = tables[change.table], change.new or change.old or ()
        key = RowKey(table.name, table.key_of(row))
        found.append((key, str(row[table.audience_position]), change.new))
    return found


def _encoded(result: Any) -> bytes | None:
    try:
        return _encode(result)
    except Exception:
        return None


# ---- how two runs differ ------------------------------------------------------------------


def difference(a: Told, b: Told) -> str | None:
    """In what two runs differ; None where they came out the same."""
    if a.error != b.error:
        return f"one {_ended(a)}, and one {_ended(b)}"
    return differing_row(a.left(), b.left()) or _differing_result(a, b)


def _ended(told: Told) -> str:
    return "ended well" if told.error is None else "raised {}: {}".format(*told.error)


def differing_row(a: dict[RowKey, Full | None], b: dict[RowKey, Full | None]) -> str | None:
    """The first row that two runs left differently."""
    for row in {**a, **b}:
        if row not in a or row not in b:
            return f"only one of them changed {row}"
        if a[row] != b[row]:
            return f"{row} became {short(str(a[row]))} and {short(str(b[row]))}"
    return None


def _differing_result(a: Told, b: Told) -> str | None:
    if a.result == b.result or a.result is None or b.result is None:
        return None
    one, other = (short(repr(msgspec.msgpack.decode(told.result or b""))) for told in (a, b))
    return f"they returned {one} and {other}"


# ---- where they part ------------------------------------------------------------------------


def parting(a: Told, b: Told) -> tuple[Step | None, Step | None]:
    """The first statements in which two runs differ."""
    pairs = zip_longest(a.steps, b.steps)
    return next(((x, y) for x, y in pairs if x != y), (None, None))


def parting_line(home: Site, a: Told, b: Told) -> str:
    """Where two runs part, in words."""
    one, other = parting(a, b)
    if one is not None and other is not None and (one.sql, one.site) == (other.sql, other.site):
        return f"{one}, and {other.values}"
    return str(one or other or home)


def unordered_step(reversed: Told, ran: Told) -> Step | None:
    """The statement that rests on the order of rows, where a reversed run came out otherwise."""
    pairs = zip(reversed.steps, ran.steps, strict=False)
    if told := next((a for a, b in pairs if a.rows != b.rows), None):
        return told
    # Where no row was given, a statement chose rows within itself.
    changed = {row.table for row in reversed.left() | ran.left()}
    within = [step for step in ran.steps if step.writes & changed]
    return max(within, key=lambda step: _choosing(step.sql), default=None)


def _choosing(sql: str) -> int:
    """How likely a writing statement chooses among rows."""
    words = {token.word for token in tokens_of(sql)}
    return 2 * ("LIMIT" in words) + ("SELECT" in words)


def short(text: str) -> str:
    """A text as an error shows it: what it is, not all of it."""
    return text if len(text) <= 200 else f"{text[:180]}… ({len(text)} characters)"
