"""The part of history that an upload touches: a few rows, each with its patches in order.

An upload is judged against this, in memory, before anything of it is stored. Of a row on
which it sorts last, only the present is needed; of others, all patches above the server's
floor. What is staged can be dropped at once, to judge again without a part of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from synchrotron.core.clock import OrderKey
from synchrotron.core.fold import apply, fold
from synchrotron.core.ids import Audience
from synchrotron.core.patches import Patch, RowKey, Target, Values


class Place(NamedTuple):
    """The place of a patch: an action and a target."""

    order_key: OrderKey
    target: Target


class Life:
    """One row in one audience: from `start`, through its patches in order, to `row`.

    `before` is where the patches that are known begin: nothing can be asked of a place
    before it. None where all of them are known.
    """

    __slots__ = ("before", "keys", "patches", "row", "start")

    def __init__(
        self,
        start: Values | None,
        before: OrderKey | None = None,
        patches: Mapping[OrderKey, Patch | None] = {},
    ) -> None:
        self.start = start
        self.before = before
        self.patches: dict[OrderKey, Patch | None] = {}
        self.keys: list[OrderKey] = []
        self.row = start
        if patches:  # most rows that an upload touches are new
            self.patches.update(patches)
            self.keys = sorted(patches)
            self.row = fold(start, map(self.patches.__getitem__, self.keys))

    def copy(self) -> Life:
        life = Life.__new__(Life)
        life.start, life.before, life.row = self.start, self.before, self.row
        life.patches, life.keys = dict(self.patches), list(self.keys)
        return life

    def is_known(self, besides: OrderKey | None = None) -> bool:
        """Whether anything is stored of this row, but for one action's patch."""
        known = self.before is not None or self.start is not None
        return known or any(key != besides for key in self.keys[:2])

    def row_before(self, key: OrderKey) -> Values | None:
        """The row as it stands just before an order key."""
        assert self.before is None or key > self.before
        if not self.keys or key > self.keys[-1]:
            return self.row
        return fold(self.start, (self.patches[k] for k in self.keys[: bisect_left(self.keys, key)]))

    def steps(self) -> Iterator[tuple[OrderKey, Values | None]]:
        """Each action that patches the row, in order, with the row just before it."""
        row = self.start
        for key in self.keys:
            yield key, row
            row = apply(row, self.patches[key])

    def put(
        self, key: OrderKey, patch: Patch | None, after: Values | UnsetType | None = UNSET
    ) -> None:
        """Put a patch where it belongs, in place of one that is there.

        `after` is the row after it at its place, if that is known already.
        """
        is_last = not self.keys or key > self.keys[-1]
        if is_last:
            self.keys.append(key)
            self.patches[key] = patch
            self.row = apply(self.row, patch) if after is UNSET else after
        else:
            if key not in self.patches:
                insort(self.keys, key)
            self.patches[key] = patch
            self.row = fold(self.start, (self.patches[k] for k in self.keys))


_NO_LIFE = Life(None)
"""Of a row that never was; nothing is put into it."""


class History:
    """The lives that an upload touches, as stored and as staged."""

    def __init__(self, stored: Mapping[Target, Life]) -> None:
        self._stored = stored
        self._staged: dict[Target, Life] = {}
        self._homes: dict[RowKey, set[Target]] = {}
        self._inserted: set[Target] = set()
        for target in stored:
            self._homes.setdefault(target.row, set()).add(target)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stored of the rows that the upload touches."""
        return not self._stored

    def restart(self) -> None:
        """Drop what is staged."""
        for target in self._staged:
            if target not in self._stored:
                self._homes[target.row].discard(target)
        self._staged.clear()
        self._inserted.clear()

    def insert(self, target: Target) -> None:
        """Note a row of which nothing is stored, and which a single insert makes what it is."""
        self._inserted.add(target)

    def life(self, target: Target) -> Life:
        return self._staged.get(target) or self._stored.get(target) or _NO_LIFE

    def stored_patch(self, place: Place) -> Patch | None:
        life = self._stored.get(place.target)
        return life.patches.get(place.order_key) if life else None

    def has_patch(self, place: Place) -> bool:
        life = self._stored.get(place.target)
        return life is not None and place.order_key in life.patches

    def opened(self, target: Target, row: RowKey) -> Life:
        """The life of a target, whose row this is, to put patches into."""
        life = self._staged.get(target)
        if life is None:
            stored = self._stored.get(target)
            life = self._staged[target] = stored.copy() if stored else Life(None)
            self._homes.setdefault(row, set()).add(target)
        return life

    def made(self) -> set[Target]:
        """Of which rows there was nothing before, and a single insert makes what they are."""
        return self._inserted | {
            target
            for target, life in self._staged.items()
            if len(life.keys) == 1
            and (patch := life.patches[life.keys[0]]) is not None
            and patch.op == "insert"
            and target not in self._stored
        }

    def staged(self) -> Iterable[tuple[Target, Life]]:
        return self._staged.items()

    def is_split(self, row: RowKey) -> bool:
        """Whether a row key lives in two audiences after some action of history (S9)."""
        targets = self._homes.get(row, ())
        if len(targets) < 2:
            return False
        lives = {target.audience: self.life(target) for target in targets}
        living = {audience for audience, life in lives.items() if life.start is not None}
        for key in sorted({key for life in lives.values() for key in life.keys}):
            for audience, life in lives.items():
                patch = life.patches.get(key)
                if patch is not None and patch.op == "insert":
                    living.add(audience)
                elif patch is not None and patch.op == "delete":
                    living.discard(audience)
            if len(living) > 1:
                return True
        return len(living) > 1

    def homes(self, row: RowKey) -> dict[Audience, Values]:
        """The audiences in which a row key is now, with its values there."""
        found: dict[Audience, Values] = {}
        for target in self._homes.get(row, ()):
            if (values := self.life(target).row) is not None:
                found[target.audience] = values
        return found
