"""Purity: whether an action does the same each time it runs on the same rows (A3).

An action that asks the machine's clock, draws its own random numbers, keeps something
between runs or relies on the order of an unordered query gives other patches on the
next replica, and corrections without end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, ParamSpec, TypeVar

from synchrotron.app.action import Action, Arguments
from synchrotron.core.patches import Patch, Target
from synchrotron.core.records import ActionRecord
from synchrotron.replica.replica import Replica
from synchrotron.replica.runner import Runner
from synchrotron.store.database import is_machine_error
from synchrotron.store.effects import effects_of
from synchrotron.store.store import Store

P = ParamSpec("P")
R = TypeVar("R")
RUNS = 3
Did = tuple[dict[Target, Patch | None], str | None]
"""The patches of a run, or what it raised."""


class Impure(AssertionError):
    """An action gave other patches on the same rows."""


def check_purity(
    replica: Replica, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Run an action several times on a copy of this replica's rows; nothing of it stays.

    Once, unordered queries give their rows in the opposite order. Raises `Impure` where
    not all runs leave the same patches, or raise the same, and `ArgumentError`.
    """
    arguments = action.bind(args, kwargs)
    with _copy(replica) as store:
        record = replica._engine.rehearse(action, arguments)
        first = _run(store, action, record, arguments)
        for _ in range(RUNS - 1):
            _require_same(action, arguments, first, _run(store, action, record, arguments), "again")
        store.writer.execute("PRAGMA reverse_unordered_selects = ON")
        other = _run(store, action, record, arguments)
        _require_same(action, arguments, first, other, "with unordered rows in another order")


@contextmanager
def _copy(replica: Replica) -> Iterator[Store]:
    """The replica's synced rows in a database of their own."""
    source = replica._engine.store
    with closing(Store(source.definition, ":memory:", entropy=os.urandom, user="purity")) as copy:
        with replica._engine.lock, copy.rows.unchecked():
            for name, table in source.schema.tables.items():
                rows = source.writer.execute(f"SELECT * FROM {name}").fetchall()
                copy.rows.insert(name, map(table.image, rows))
        yield copy


def _run(store: Store, action: Action[Any, Any], record: ActionRecord, arguments: Arguments) -> Did:
    """What a run did; it is undone."""
    store.writer.execute("BEGIN")
    try:
        _, changes = Runner(store).run(action, record, arguments)
        effects = effects_of(store.schema.tables, changes)
        return {target: effect.applied for target, effect in effects.items()}, None
    except Exception as error:
        if is_machine_error(error):
            raise
        return {}, f"{type(error).__name__}: {error}"
    finally:
        store.writer.execute("ROLLBACK")


def _require_same(
    action: Action[Any, Any], arguments: Arguments, first: Did, other: Did, how: str
) -> None:
    if first == other:
        return
    (one, raised), (two, raised_then) = first, other
    lines = [
        f"  {target.row}: at first {_shown(one.get(target))}, then {_shown(two.get(target))}"
        for target in sorted(one.keys() | two.keys(), key=repr)
        if one.get(target) != two.get(target)
    ]
    if raised != raised_then:
        lines.append(f"  at first it raised {raised or 'nothing'}, then {raised_then or 'nothing'}")
    raise Impure(
        f"{action.title} with {arguments.json} did something else when it was run {how}, on the "
        "same rows. Take time, randomness and new ids from ctx, keep nothing between runs, and "
        "write ORDER BY where the order counts:\n" + "\n".join(lines)
    )


def _shown(patch: Patch | None) -> str:
    return "no change" if patch is None else f"{patch.op} {patch.columns}"
