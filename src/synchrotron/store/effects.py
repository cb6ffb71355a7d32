"""Effects: what one action does to one row in one audience.

An effect says what the server knows, what this replica applied, and the image before it,
which is all that undo needs. A first run leaves the changes as they were captured;
effects are made of them when they are looked at, since most runs are never replayed and
all should be fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from synchrotron.app.schema import Full, Table
from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Audience, Seq
from synchrotron.core.messages import RowPatch
from synchrotron.core.patches import DELETE, Known, Patch, Target, insert
from synchrotron.store.capture import Change

Op: TypeAlias = Literal["insert", "update", "delete"]


class Effect(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """What one action does to one row in one audience."""

    table: str
    key: tuple[Any, ...]
    audience: Audience
    applied: Patch | None = None
    """What this replica's rows hold."""
    before: tuple[Any, ...] | None = None
    """The image before `applied`, None where there was no row."""
    known: Known | None = None
    """What the server knows; None where it knows nothing of this row."""
    unsent: bool = False
    """`applied` is a correction that the server has not accepted yet."""
    denied: bool = False
    """The server refused a correction here: `known` stands until it changes (S5)."""
    accepted: bytes | None = None
    """For an own action, the fingerprint of what it did when it was accepted."""
    overruled: bool = False
    """What is known won over what the replay did."""
    foreign: bool = False
    """`known` names a table or column that this schema does not have (S11)."""

    @property
    def target(self) -> Target:
        return Target(self.table, self.key, self.audience)

    @property
    def differs(self) -> bool:
        """Whether an own action has other effects here than when it was accepted."""
        if self.accepted is None:
            return False
        return self.overruled or self.accepted != fingerprint(self.applied)

    @property
    def is_undisputed(self) -> bool:
        """Whether the last replay did what the server knows, if that knows anything.

        Then the same replay would be applied again, with and without standing.
        """
        if self.unsent or self.denied or self.overruled or self.foreign:
            return False
        return self.known is None or self.known.patch == self.applied

    @property
    def matters(self) -> bool:
        return bool(self.applied or self.known or self.unsent or self.denied or self.accepted)


def completed(table: Table, patch: Patch | None) -> Patch | None:
    """A patch as an author with this schema would have made it.

    What inserts a row means, for columns that its author did not have yet, their defaults:
    without this it would differ from a replay that does the same (S11).
    """
    if patch is None or patch.op != "insert":
        return patch
    values = patch.values
    complete = table.completed(values)
    return patch if complete is values else insert(complete)


def grow(effect: Effect, before: Table, table: Table) -> None:
    """Bring an effect from the table as it was to what migrations have made of it."""
    if effect.before is not None:
        effect.before = table.to_image(before.values(effect.before))
    applied = completed(table, effect.applied)
    if effect.accepted == fingerprint(effect.applied):
        effect.accepted = fingerprint(applied)
    effect.applied = applied
    if effect.known is not None:
        known = completed(table, effect.known.patch)
        effect.known = msgspec.structs.replace(effect.known, patch=known)


def fingerprint(patch: Patch | None) -> bytes:
    """Eight bytes that tell a patch from another; none for no patch."""
    if patch is None:
        return b""
    return hashlib.blake2b((patch.op + patch.columns).encode(), digest_size=8).digest()


def effects_of(
    tables: Mapping[str, Table], changes: Iterable[Change], seq: Seq | None = None
) -> dict[Target, Effect]:
    """What a run did, by the changes that were captured; with a seq, the server has just that."""
    effects = (_effect(tables[change.table], change) for change in changes)
    found = {effect.target: effect for effect in effects}
    if seq is not None:
        for effect in found.values():
            effect.known = Known(effect.applied, seq, seq)
            effect.accepted = fingerprint(effect.applied)
    return found


def patches_of(tables: Mapping[str, Table], changes: Iterable[Change]) -> list[RowPatch]:
    """The same on its way to the server, without a detour over canonical texts."""
    return [_row_patch(tables[change.table], change) for change in changes]


def _effect(table: Table, change: Change) -> Effect:
    full = _either(change)
    before = None if change.old is None else table.image(change.old)
    op, values = _difference(table, change)
    patch = DELETE if values is None else Patch(op, text_of(values))
    audience = Audience(full[table.audience_position])
    return Effect(table.name, table.key_of(full), audience, applied=patch, before=before)


def _row_patch(table: Table, change: Change) -> RowPatch:
    full = _either(change)
    op, values = _difference(table, change)
    audience = Audience(full[table.audience_position])
    return RowPatch(table.name, list(table.key_of(full)), audience, op, values)


def _either(change: Change) -> Full:
    full = change.old if change.new is None else change.new
    assert full is not None
    return full


def _difference(table: Table, change: Change) -> tuple[Op, dict[str, Any] | None]:
    if change.new is None:
        return "delete", None
    after = table.image(change.new)
    values = table.values(after)
    if change.old is None:
        return "insert", values
    before = table.image(change.old)
    changed = {
        column.name
        for column, old, new in zip(table.columns, before, after, strict=True)
        if old != new or type(old) is not type(new)
    }
    return "update", {name: value for name, value in values.items() if name in changed}
