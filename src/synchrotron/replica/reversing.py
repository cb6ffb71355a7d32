"""Reversing: what an undo needs to know of the action that it is to reverse.

The arguments of an undo are made of what the action does *here and now*: of each row the
image before it, and its patch. They travel to everyone who sees the undo. So an undo is in
one audience, and an action that changed rows of several cannot be undone so: it would show
each one's members the others' rows.
"""

from __future__ import annotations

from collections.abc import Container

from synchrotron.app.action import Arguments
from synchrotron.app.schema import Table
from synchrotron.app.undo import Reversal
from synchrotron.core.ids import ActionId
from synchrotron.errors import CannotUndo, UnknownOutcome
from synchrotron.replica.outcomes import Outcome, SetAside
from synchrotron.store.effects import Effect
from synchrotron.store.log import Entry
from synchrotron.store.store import Store

_INSTEAD = "write an action that does the reverse"


def reversing_of(store: Store, asked: ActionId, without: Container[object]) -> Arguments:
    """The arguments of an undo of an action, but for some of its rows.

    Raises `UnknownOutcome`, and `CannotUndo` for what has no effect here, or too many.
    """
    entry = _entry(store, asked)
    name = f"action {entry.record.name} {entry.record.id}"
    if entry.error is not None:
        raise CannotUndo(f"{name} was rejected ({entry.error}): there is nothing to undo")
    effects = [effect for effect in entry.effects.values() if effect.applied is not None]
    if not effects:
        raise CannotUndo(f"{name} changed nothing that is known here: there is nothing to undo")
    if any(effect.foreign for effect in entry.effects.values()):
        raise CannotUndo(
            f"{name} changed columns or tables that this version of the application does not "
            "know: upgrade it, and sync"
        )
    audiences = {effect.audience for effect in effects}
    if len(audiences) > 1:
        raise CannotUndo(
            f"{name} changed rows in several audiences ({', '.join(sorted(audiences))}), and an "
            f"undo would show each one's members the others' rows: {_INSTEAD}"
        )
    rows = [_reversal(store.schema.tables[effect.table], effect) for effect in effects]
    rows = [row for row in rows if row.row not in without]
    return store.definition.undo.bind(
        (), {"of": entry.record.id, "audience": audiences.pop(), "rows": rows}
    )


def _entry(store: Store, asked: ActionId) -> Entry:
    set_aside = SetAside(store.writer)
    id = set_aside.present_id(asked)
    entry = store.log.with_id(id)
    if entry is not None:
        return entry
    if found := set_aside.get(id, None):
        raise CannotUndo(f"action {found[0].name} {id} {_why_gone(found[1])}")
    raise UnknownOutcome(f"{asked} is not an action that this replica has in its log")


def _why_gone(outcome: Outcome) -> str:
    match outcome.state:
        case "parked":
            return "is parked and has no effect: discard it instead"
        case "discarded":
            return "was discarded and has no effect: there is nothing to undo"
        case _:
            return f"is pruned, and what it changed is not known any more: {_INSTEAD}"


def _reversal(table: Table, effect: Effect) -> Reversal:
    patch, key = effect.applied, list(effect.key)
    old = None if effect.before is None else table.values(effect.before)
    if patch is None or patch.op == "delete":
        return Reversal(table.name, key, old, None)
    new = patch.values
    if old is not None and patch.op == "update":
        old = {name: old[name] for name in new}
    return Reversal(table.name, key, old, new)
