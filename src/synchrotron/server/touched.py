"""What is stored of that which an upload touches: rows, and the actions that it corrects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from synchrotron.core.canonical import decode
from synchrotron.core.clock import OrderKey
from synchrotron.core.ids import ActionId, Audience
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.server.brought import Brought
from synchrotron.server.database import Connection, fetch
from synchrotron.server.history import Life
from synchrotron.server.live import Home
from synchrotron.server.parameters import columns_of


class Stored(NamedTuple):
    """An action that is stored already, as far as its correction needs it."""

    id: ActionId
    order_key: OrderKey
    user: str
    audiences: frozenset[Audience] | None
    patched: frozenset[Audience]
    """The audiences of its patches."""

    def is_seen_by(self, user: str, audiences: frozenset[Audience]) -> bool:
        """Whether the record is theirs to read: their own, declared for them, or in view."""
        scopes = self.patched.union(self.audiences or ())
        return self.user == user or not audiences.isdisjoint(scopes)


class Touched(NamedTuple):
    """What is stored of the rows that an upload touches."""

    history: dict[Target, Life]
    homes: dict[RowKey, Home]
    """Where those of the row keys are that are anywhere."""


async def load_stored(connection: Connection, ids: Sequence[ActionId]) -> dict[ActionId, Stored]:
    """The actions that corrections are about, of those that there are."""
    if not ids:
        return {}
    rows = await fetch(connection, "SELECT * FROM synchrotron.load_actions(%s::text[])", list(ids))
    patched: dict[OrderKey, set[Audience]] = defaultdict(set)
    for _, _, audience, key, *_ in await fetch(
        connection,
        "SELECT * FROM synchrotron.patches_of_actions(%s::text[])",
        [key for _, key, *_ in rows],
    ):
        patched[key].add(audience)
    return {
        id: Stored(
            id,
            key,
            user,
            None if declared is None else frozenset(declared),
            frozenset(patched[key]),
        )
        for id, key, _, user, declared in rows
    }


async def touched_by(connection: Connection, brought: Brought, rows: Sequence[Any]) -> Touched:
    """The rows that an upload touches; with all patches where it does not sort last on one.

    `rows` are what `synchrotron.load_targets` gives.
    """
    if not rows:
        return Touched({}, {})
    first: dict[Target, OrderKey | None] = {}
    for sent in brought.actions:
        for patch in sent.patches:
            fault, target, *_ = brought.proposed[id(patch)]
            if fault is None:
                first.setdefault(target, sent.record.order_key)
    for correction in brought.corrections:
        fault, target, *_ = brought.proposed[id(correction.patch)]
        if fault is None:
            first[target] = None
    places = [Target(table, tuple(decode(key)), audience) for table, key, audience, *_ in rows]
    several = Counter(target.row for target in {*places, *first})
    history: dict[Target, Life] = {}
    homes: dict[RowKey, Home] = {}
    late: dict[tuple[str, str, str], tuple[Target, str | None]] = {}
    for target, (table, key, audience, base, present, newest) in zip(places, rows, strict=True):
        values = None if present is None else decode(present)
        if values is not None:
            homes[target.row] = (audience, values)
        begin = first.get(target, "~")
        is_last = begin is not None and (newest is None or begin > newest)
        if not is_last or several[target.row] > 1:  # then its whole life counts (S9)
            late[table, key, audience] = target, base
        else:
            history[target] = Life(values, newest or OrderKey(""))
    patches: dict[tuple[str, str, str], dict[OrderKey, Patch | None]] = defaultdict(dict)
    if late:
        for table, key, audience, order_key, op, columns in await fetch(
            connection,
            "SELECT * FROM synchrotron.load_patches(%s::text[], %s::text[], %s::text[])",
            *columns_of(late, 3),
        ):
            patches[table, key, audience][order_key] = None if op is None else Patch(op, columns)
    for place, (target, base) in late.items():
        start = None if base is None else decode(base)
        history[target] = Life(start, None, patches[place])
    return Touched(history, homes)
