"""Strict mode: each action runs twice on the same rows, and must come out the same (A3).

The first time is a rehearsal: watched (`impurity`), with unordered queries giving their
rows the other way round, and rolled back. The second is the run. Both must have made the
same changes and the same result, or have raised the same. Where they did not, a third run
in the usual order tells which it was, the order or something that outlives a run.

Only first runs are judged. A replay that raised would count as a rejection (A7) on this
replica alone.
"""

from __future__ import annotations

from typing import Any

from synchrotron.app.action import Action, Arguments
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ImpureAction
from synchrotron.replica.attempts import (
    Attempt,
    NotingRunner,
    difference,
    parting_line,
    unordered_step,
)
from synchrotron.replica.impurity import Watch, home_of
from synchrotron.replica.runner import Runner
from synchrotron.replica.sources import Sources
from synchrotron.store.capture import Change
from synchrotron.store.store import Store


class StrictRunner(NotingRunner):
    """Runs actions for the first time, twice."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._sources = Sources(store.writer)

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
        rehearsed = self._rehearse(action, record)
        execute("ROLLBACK TO synchrotron_strict")
        ran = self.attempt(action, record)
        if found := difference(rehearsed.told, ran.told):
            execute("ROLLBACK TO synchrotron_strict")
            raise ImpureAction(
                f"{action.title}, defined at {home_of(action)}, ran twice on the same rows with "
                f"the same arguments, and {found}. {self._why(action, record, rehearsed, ran)}"
            )
        if ran.error is not None:
            raise ran.error
        self._sources.note(action)
        execute("RELEASE synchrotron_strict")
        return ran.result, ran.changes

    def _rehearse(self, action: Action[Any, Any], record: ActionRecord) -> Attempt:
        execute = self._store.writer.execute
        execute("PRAGMA reverse_unordered_selects = 1")
        try:
            with Watch(action, Runner.run.__code__).watching():
                return self.attempt(action, record)
        finally:
            execute("PRAGMA reverse_unordered_selects = 0")

    def _why(
        self, action: Action[Any, Any], record: ActionRecord, rehearsed: Attempt, ran: Attempt
    ) -> str:
        again = self.attempt(action, record)
        if difference(ran.told, again.told) is None:
            step = unordered_step(rehearsed.told, ran.told)
            return (
                "It rests on the order of rows that no ORDER BY gives, at "
                f"{step or home_of(action)}. Add ORDER BY, with a whole key at its end, or name "
                "the rows by their keys"
            )
        return (
            f"It parts with itself at {parting_line(home_of(action), ran.told, again.told)}. Look "
            "there for what is neither an argument nor a row: a global, a counter, a cache, an "
            "iterator. Pass the value as an argument, or keep it in a row"
        )
