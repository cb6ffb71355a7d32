"""Strict mode: each action runs twice on the same rows, and must come out the same (A3).

The first time is a rehearsal: watched (`impurity`), with unordered queries giving their
rows the other way round, and rolled back. The second is the run. Both must have made the
same changes and the same result, or have raised the same. Where they did not, a third run
in the usual order tells which it was, the order or something that outlives a run; and the
statements of the runs, kept beside one another, tell the line.

Only first runs are judged. A replay that raised would count as a rejection (A7) on this
replica alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from typing import Any, NamedTuple

import msgspec

from synchrotron.app.action import Action, Arguments
from synchrotron.app.context import Parameters
from synchrotron.app.ddl import tokens_of
from synchrotron.app.row import Row
from synchrotron.app.schema import Table
from synchrotron.app.types import shown
from synchrotron.core.patches import RowKey
from synchrotron.core.records import ActionRecord
from synchrotron.errors import DeterminismWarning, ImpureAction
from synchrotron.replica.impurity import Site, Watch, home_of, site_of
from synchrotron.replica.runner import Runner
from synchrotron.replica.sources import Sources
from synchrotron.store.capture import Change, Full, same_row
from synchrotron.store.database import is_machine_error
from synchrotron.store.statements import Statements
from synchrotron.store.store import Store


class Step(msgspec.Struct):
    """A statement of a run."""

    site: Site | None
    sql: str
    params: str
    rows: str = ""

    @property
    def values(self) -> str:
        return f"with {_short(self.params)}"

    def __str__(self) -> str:
        return f"{self.site or 'its end'}: {_short(' '.join(self.sql.split()))} {self.values}"


class Attempt(NamedTuple):
    """What one of the runs came to."""

    result: Any
    changes: list[Change]
    error: Exception | None
    steps: list[Step]


class StrictRunner(Runner):
    """Runs actions for the first time, twice."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._sources = Sources(store.writer)
        self._steps: list[Step] = []

    def warn_of_changed_actions(self) -> None:
        """Warn of actions in the log whose code changed without a new version."""
        history = [entry.record for entry in self._store.log.all()]
        self._sources.warn_of_changes(self._store.definition.actions, history)

    def run(
        self, action: Action[Any, Any], record: ActionRecord, arguments: Arguments
    ) -> tuple[Any, list[Change]]:
        """As `Runner.run`. Raises `ImpureAction` where the action was caught."""
        execute = self._store.writer.execute
        execute("SAVEPOINT synchrotron_strict")
        execute("PRAGMA reverse_unordered_selects = 1")
        try:
            watch = Watch(action, Runner.run.__code__).watching()
            rehearsed = self._attempt(action, record, watch)
        finally:
            execute("PRAGMA reverse_unordered_selects = 0")
        execute("ROLLBACK TO synchrotron_strict")
        # An action may change its arguments: each run gets them anew.
        ran = self._attempt(action, record)
        if difference := _difference(self.tables, rehearsed, ran):
            execute("ROLLBACK TO synchrotron_strict")
            again = self._attempt(action, record)
            raise ImpureAction(self._report(action, difference, rehearsed, ran, again))
        if ran.error is not None:
            raise ran.error
        self._sources.note(action)
        execute("RELEASE synchrotron_strict")
        return ran.result, ran.changes

    def _attempt(
        self,
        action: Action[Any, Any],
        record: ActionRecord,
        watch: AbstractContextManager[None] | None = None,
    ) -> Attempt:
        self._steps = []
        arguments = action.arguments(record.args)
        try:
            with watch or nullcontext():
                result, changes = super().run(action, record, arguments)
        except Exception as error:
            if is_machine_error(error) or isinstance(error, ImpureAction | DeterminismWarning):
                raise
            return Attempt(None, [], error, self._steps)
        return Attempt(result, changes, None, self._steps)

    def _report(
        self,
        action: Action[Any, Any],
        difference: str,
        rehearsed: Attempt,
        ran: Attempt,
        again: Attempt,
    ) -> str:
        home = home_of(action)
        if _difference(self.tables, ran, again) is None:
            why = _by_order(self._statements, rehearsed, ran)
        else:
            why = _by_state(home, ran, again)
        return (
            f"{action.title}, defined at {home}, ran twice on the same rows with the same "
            f"arguments, and {difference}. {why}"
        )

    # ---- what a context executes, noted ----------------------------------------------

    def execute(self, sql: str, params: Parameters = ()) -> list[Row]:
        step = self._note(sql, params)
        rows = super().execute(sql, params)
        step.rows = repr(rows)
        return rows

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        rows = list(rows)
        self._note(sql, rows)
        super().executemany(sql, rows)

    def _note(self, sql: str, params: Any) -> Step:
        site = site_of(sys._getframe(2), Runner.run.__code__)
        self._steps.append(Step(site, sql, repr(params)))
        return self._steps[-1]


# ---- how two runs differ ------------------------------------------------------------------


def _difference(tables: Mapping[str, Table], a: Attempt, b: Attempt) -> str | None:
    """In what two runs differ; None where they came out the same."""
    if a.error is not None or b.error is not None:
        if _told(a.error) == _told(b.error):
            return None
        return f"one {_ended(a)}, and one {_ended(b)}"
    return _differing_row(_by_row(tables, a), _by_row(tables, b)) or _differing_result(a, b)


def _told(error: Exception | None) -> tuple[type | None, str]:
    return type(error), str(error)


def _ended(attempt: Attempt) -> str:
    error = attempt.error
    return "ended well" if error is None else f"raised {type(error).__name__}: {error}"


def _by_row(tables: Mapping[str, Table], attempt: Attempt) -> dict[RowKey, Full | None]:
    return {
        RowKey(c.table, tables[c.table].key_of(c.new or c.old or ())): c.new
        for c in attempt.changes
    }


def _differing_row(a: dict[RowKey, Full | None], b: dict[RowKey, Full | None]) -> str | None:
    for row in {**a, **b}:
        if row not in a or row not in b:
            return f"only one of them changed {row}"
        if not same_row(a[row], b[row]):
            return f"{row} became {_short(str(a[row]))} and {_short(str(b[row]))}"
    return None


def _differing_result(a: Attempt, b: Attempt) -> str | None:
    if _same_result(a.result, b.result):
        return None
    return f"they returned {shown(a.result)} and {shown(b.result)}"


def _same_result(a: Any, b: Any) -> bool:
    """Whether two results are the same, as far as they can be compared."""
    try:
        return bool(a == b) or msgspec.msgpack.encode(a) == msgspec.msgpack.encode(b)
    except Exception:
        return True  # an object and no value; what both did was compared


# ---- why ----------------------------------------------------------------------------------


def _by_order(statements: Statements, reversed: Attempt, ran: Attempt) -> str:
    """The rows of an unordered query came the other way round: which query's."""
    changed = {change.table for change in (*reversed.changes, *ran.changes)}
    told = [a for a, b in zip(reversed.steps, ran.steps, strict=False) if a.rows != b.rows]
    # Where no row was given, a statement chose rows within itself.
    within = [step for step in ran.steps if statements.writes(step.sql) & changed]
    within.sort(key=lambda step: -_choosing(step.sql))
    step = next(iter(told or within), None)
    where = "in one of its queries" if step is None else str(step)
    return (
        f"It rests on the order of rows that no ORDER BY gives, {where}. "
        "Add ORDER BY, with a whole key at its end, or name the rows by their keys"
    )


def _choosing(sql: str) -> int:
    """How likely a writing statement chooses among rows."""
    words = {token.word for token in tokens_of(sql)}
    return 2 * ("LIMIT" in words) + ("SELECT" in words)


def _by_state(home: Site, ran: Attempt, again: Attempt) -> str:
    """Something outlives a run: where the statements part."""
    pairs = zip_longest(ran.steps, again.steps)
    a, b = next(((a, b) for a, b in pairs if a != b), (None, None))
    if a is not None and b is not None:
        where = f"It parts with itself at {a}, {b.values}"
    else:
        step = a or b
        where = f"It parts with itself at {step or home}"
    return (
        f"{where}. Look there for what is neither an argument nor a row: a global, a counter, "
        "a cache, an iterator. Pass the value as an argument, or keep it in a row"
    )


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:180]}… ({len(text)} characters)"
