"""Purity: whether an action does the same wherever it runs on the same rows (A3).

An action that asks the machine's clock, draws its own random numbers, keeps something
between runs or relies on the order of a set or of an unordered query gives other patches
on the next replica, and corrections without end.
"""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from synchrotron.app.action import Action, Arguments
from synchrotron.app.definition import Definition
from synchrotron.core.records import ActionRecord
from synchrotron.elsewhere.copies import Rows, copied, rows_of, undone
from synchrotron.elsewhere.other_process import Unreachable, run_elsewhere
from synchrotron.elsewhere.views import run_under_views
from synchrotron.errors import ImpureAction
from synchrotron.replica.attempts import NotingRunner, difference, parting_line
from synchrotron.replica.impurity import home_of, warn_at
from synchrotron.replica.replica import Replica
from synchrotron.replica.strict import StrictRunner
from synchrotron.store.database import is_machine_error

P = ParamSpec("P")
R = TypeVar("R")


class Impure(AssertionError):
    """An action did something else on the same rows, or reached for more than them."""


def check_purity(
    replica: Replica, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Run an action on copies of this replica's rows; nothing of it stays.

    It runs as in strict mode: watched, and again with unordered queries the other way
    round; then in other processes, each with another hash seed, time zone and locale; then
    on the rows that each other user sees. Raises `Impure` where a run comes out
    differently, with the line, and `ArgumentError`. Warns (`DeterminismWarning`) of what
    may well be meant: files, the environment, and hidden rows that decide shared ones; and
    where no other process can run it, since no module holds the application.
    """
    arguments = action.bind(args, kwargs)
    record = replica._engine.rehearse(action, arguments)
    definition, rows = replica._engine.store.definition, rows_of(replica)
    try:
        _run_strictly(definition, action, record, arguments, rows)
        _run_in_other_processes(definition, action, record, rows)
    except ImpureAction as error:
        raise Impure(str(error)) from error
    _run_as_others(definition, action, record, rows)


def _run_strictly(
    definition: Definition,
    action: Action[Any, Any],
    record: ActionRecord,
    arguments: Arguments,
    rows: Rows,
) -> None:
    with copied(definition, rows) as store, undone(store):
        try:
            StrictRunner(store).run(action, record, arguments)
        except Exception as error:
            # What it raises each time is the application's own word.
            if isinstance(error, ImpureAction | Warning) or is_machine_error(error):
                raise


def _run_in_other_processes(
    definition: Definition, action: Action[Any, Any], record: ActionRecord, rows: Rows
) -> None:
    home = home_of(action)
    with copied(definition, rows) as store, undone(store):
        here = NotingRunner(store).attempt(action, record).told
    try:
        for environment, there in run_elsewhere(definition, action, record, rows):
            if found := difference(here, there):
                where = " ".join(f"{name}={value}" for name, value in environment.items())
                raise ImpureAction(
                    f"{action.title}, defined at {home}, ran here and in another process "
                    f"({where}) on the same rows with the same arguments, and {found}. They part "
                    f"at {parting_line(home, here, there)}. Look before that for the order of a "
                    "set (use sorted(…)), for hash() and id(), the time zone, the locale, and "
                    "what is read when a module is imported"
                )
    except Unreachable as error:
        warn_at(
            f"{action.title} was not run in another process, which would show the order of sets, "
            f"hash() and the like: {error}. Make the App at the top of a module",
            home,
        )


def _run_as_others(
    definition: Definition, action: Action[Any, Any], record: ActionRecord, rows: Rows
) -> None:
    home = home_of(action)
    for who, found, full, other in run_under_views(definition, action, record, rows):
        parts = next((a for a, b in zip(full.steps, other.steps, strict=False) if a != b), None)
        warn_at(
            f"{action.title} decides shared rows by ones that not everyone sees: run with all rows "
            f"and with those of {who}, {found}. It parts at {parts or home}. Decide by rows of the "
            "same audience, or pass the value as an argument",
            home,
        )
