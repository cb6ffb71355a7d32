"""The same run under other users' views: where rows that they do not see decide ones they do.

Replicas of users with different audiences run the same action on different rows. It may
come out differently for a row that both see. Replicas converge all the same (S8), but on
what the last one with standing made of it, which is seldom what its author meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from synchrotron.app.action import Action
from synchrotron.app.definition import Definition
from synchrotron.app.schema import Table
from synchrotron.core.records import ActionRecord
from synchrotron.elsewhere.copies import Rows, copied, undone
from synchrotron.replica.attempts import NotingRunner, Told, differing_row
from synchrotron.replica.runner import PointsNowhere
from synchrotron.store.store import Store

VIEWS_MAX = 20
View = tuple[str, frozenset[str]]
"""Who, and the audiences that they see."""


def run_under_views(
    definition: Definition, action: Action[Any, Any], record: ActionRecord, rows: Rows
) -> Iterator[tuple[str, str, Told, Told]]:
    """For each view with another outcome: who, what differs, the run with all rows, and that."""
    tables = definition.schema.tables
    with copied(definition, rows) as store:
        runner = NotingRunner(store)
        views = list(_views(store.writer.execute, definition, record.user, tables))
        with undone(store):
            full = runner.attempt(action, record).told
        for who, seen in views[:VIEWS_MAX]:
            with undone(store):
                _hide_others(store, seen)
                attempt = runner.attempt(action, record)
            # Where a parent is hidden, what is known stands (A9).
            if isinstance(attempt.error, PointsNowhere):
                continue
            found = differing_row(full.left(seen), attempt.told.left(seen))
            if found is not None:
                yield who, found, full, attempt.told


def _views(
    execute: Any, definition: Definition, user: str, tables: dict[str, Table]
) -> Iterator[View]:
    """Whoever sees some of these rows, and not all; each set of audiences once."""
    present = {
        audience
        for name in tables
        for (audience,) in execute(f"SELECT DISTINCT audience_key FROM {name}")
    }
    sees: dict[str, set[str]] = {}
    if definition.audiences is None:
        for audience in present:
            sees[f"someone who sees {audience} alone"] = {audience}
    else:
        query = definition.audiences.strip().rstrip(";")
        for member, audience in execute(f"SELECT user_id, audience_key FROM ({query})"):
            sees.setdefault(str(member), set()).add(audience)
    known: set[frozenset[str]] = set()
    for who, audiences in sorted(sees.items()):
        seen = frozenset(audiences & present)
        if who != user and seen and seen != present and seen not in known:
            known.add(seen)
            yield who, seen


def _hide_others(store: Store, seen: frozenset[str]) -> None:
    """Leave the rows of these audiences alone."""
    marks = ", ".join("?" * len(seen))
    with store.rows.unchecked():
        for name in store.schema.tables:
            sql = f"DELETE FROM {name} WHERE audience_key NOT IN ({marks})"
            store.writer.execute(sql, tuple(seen))
