"""What the server stores, and what it derives from it.

The truth is in `actions`, with their patches, and in `base`, the rows at the server's
floor. The rest are views of it, kept so that each question costs what its answer costs:
`order` and `changes` sort by order key (where is an action in history, who changed a
row), `news` sorts by seq (what happened since), `scopes` sort by audience.

`rows` is the fold (H5). All changes go through `undo`. What an upload stores has no seq
until `number` gives it one, at the end of the transaction (H2).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from synchrotron.core.clock import OrderKey
from synchrotron.core.fold import apply, fold
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq, split_action_id
from synchrotron.core.patches import Known, Patch, RowKey, Target, Values
from synchrotron.core.records import ActionRecord
from synchrotron.server.clients import NEW, Client
from synchrotron.server.parts import Parts
from synchrotron.testing.undo import Undo

NONE = Seq(0)
"""Before the first seq; what is staged has no other."""
Place = tuple[OrderKey, ActionId]
_order_key = itemgetter(0)


class StoredPatch(NamedTuple):
    """A patch and who stored it as it is now: the author's upload, or a correction (H4a)."""

    known: Known
    client: ClientId
    user: str


@dataclass(slots=True)
class StoredAction:
    """An accepted action with its present patches."""

    record: ActionRecord
    seq: Seq = NONE
    patches: dict[Target, StoredPatch] = field(default_factory=dict)


@dataclass(slots=True)
class Scope:
    """What there is of one audience."""

    actions: dict[ActionId, None] = field(default_factory=dict)
    """Those that declare it or have a patch in it."""
    targets: dict[Target, None] = field(default_factory=dict)
    """Every row that has a base or a patch in it, present or not."""
    floor: OrderKey | None = None
    """The newest action of this audience that was pruned."""


class Lease(NamedTuple):
    """The right to upload next (H3), by a client that was bounced too often."""

    client: ClientId
    user: str
    audiences: frozenset[Audience]
    until_ms: int
    ends_ms: int
    """The latest that `until_ms` can be, however many parts of the upload come."""


class Stage(NamedTuple):
    """What an upload stores: an action, or (with a target) a correction of one."""

    action_id: ActionId
    target: Target | None


@dataclass
class State:
    """The server's database."""

    seq: Seq = NONE
    floor: OrderKey | None = None
    pruned: Seq = NONE
    """The newest seq among what was folded into `base`."""
    clients: dict[ClientId, Client] = field(default_factory=dict)
    leases: dict[ClientId, Lease] = field(default_factory=dict)
    parts: dict[ClientId, Parts] = field(default_factory=dict)
    """Of uploads that are not whole yet (H1)."""
    creators: dict[Audience, str] = field(default_factory=dict)
    """Whose action first wrote in an audience (H7a)."""
    peopled: dict[Audience, None] = field(default_factory=dict)
    """The audiences that ever had a member (H7a)."""
    memberless: dict[str, dict[Audience, None]] = field(default_factory=dict)
    """By creator, the audiences that never had a member."""

    actions: dict[ActionId, StoredAction] = field(default_factory=dict)
    renamed: dict[ActionId, frozenset[str]] = field(default_factory=dict)
    """The seeds of runs that were stored under another id than this, which they had in
    another copy of their file; kept for ever (O6). Copies may use one id for several runs."""
    base: dict[Target, Values] = field(default_factory=dict)
    history: list[ActionRecord] = field(default_factory=list)
    """Every record ever accepted, pruned ones too: for oracles."""

    order: list[Place] = field(default_factory=list)
    changes: dict[Target, list[Place]] = field(default_factory=dict)
    news: list[ActionId] = field(default_factory=list)
    """What got the seqs `pruned + 1`, `pruned + 2`, …"""
    commits: list[tuple[Seq, str]] = field(default_factory=list)
    """The last seq of each commit, and its token (H11)."""
    scopes: dict[Audience, Scope] = field(default_factory=dict)
    homes: dict[RowKey, dict[Audience, None]] = field(default_factory=dict)
    """The audiences in which a row key has a target."""
    rows: dict[Target, Values] = field(default_factory=dict)

    undo: Undo = field(default_factory=Undo)
    staged: list[Stage] = field(default_factory=list)

    # ---- questions ----------------------------------------------------------------

    @property
    def newest(self) -> OrderKey | None:
        """The newest order key that was accepted."""
        return self.order[-1][0] if self.order else self.floor

    def in_order(self) -> Iterator[StoredAction]:
        return (self.actions[id] for _, id in self.order)

    def scope(self, audience: Audience) -> Scope:
        return self.scopes.setdefault(audience, Scope())

    def action_at(self, key: OrderKey) -> ActionId | None:
        """The action with this order key."""
        i = bisect_left(self.order, key, key=_order_key)
        found = i < len(self.order) and self.order[i][0] == key
        return self.order[i][1] if found else None

    def since(self, cursor: Seq) -> Iterator[tuple[Seq, ActionId]]:
        """What happened after `cursor`, one entry for each seq."""
        start = max(cursor, self.pruned)
        news = self.news[start - self.pruned :]
        return ((Seq(seq), id) for seq, id in enumerate(news, start + 1))

    def token_of(self, seq: Seq) -> str | None:
        """The token of the commit that a seq belongs to; "" before the first."""
        if seq == 0:
            return ""
        i = bisect_left(self.commits, (seq,))
        return self.commits[i][1] if i < len(self.commits) else None

    def was_accepted(self, id: ActionId) -> bool:
        """Whether this id was ever accepted, pruned or not (O5)."""
        client, n = split_action_id(id)
        return client in self.clients and self.clients[client].accepted_n(n)

    def was_pruned(self, id: ActionId) -> bool:
        return id not in self.actions and self.was_accepted(id)

    def seed_of(self, id: ActionId) -> str | None:
        """The seed of the run that is stored under this id."""
        stored = self.actions.get(id)
        return stored.record.seed if stored else None

    def has_run(self, seed: str, id: ActionId) -> bool:
        """Whether a run is stored under this id, or was known by it in a copy of its file."""
        return seed == self.seed_of(id) or seed in self.renamed.get(id, ())

    def rename(self, old: ActionId, record: ActionRecord) -> None:
        """A stored run had this id before; only the user's own ids count (H9).

        A client that nobody has used is theirs from here on: a server that was put back has
        forgotten whose it was, and other files of its user tell of it as well.
        """
        client = split_action_id(old)[0]
        owner = self.clients.get(client)
        if owner is None:
            self.undo.put(self.clients, client, Client(record.user, NEW, ""))
        if owner is None or owner.user == record.user:
            seeds = self.renamed.get(old, frozenset()) | {record.seed}
            self.undo.put(self.renamed, old, seeds)

    # ---- rows at a place in history -----------------------------------------------

    def patch(self, id: ActionId, target: Target) -> Patch | None:
        return self.actions[id].patches[target].known.patch

    def row_before(self, target: Target, key: OrderKey) -> Values | None:
        """A row as it stands just before an order key."""
        changes = self.changes.get(target, [])
        return self._row_after(target, changes, bisect_left(changes, key, key=_order_key))

    def row_through(self, target: Target, key: OrderKey) -> Values | None:
        """A row as it stands just after an order key."""
        changes = self.changes.get(target, [])
        return self._row_after(target, changes, bisect_right(changes, key, key=_order_key))

    def _row_after(self, target: Target, changes: list[Place], count: int) -> Values | None:
        if count == len(changes):
            return self.rows.get(target)
        return self._fold(target, changes, count)

    def _fold(self, target: Target, changes: list[Place], count: int) -> Values | None:
        patches = (self.patch(id, target) for _, id in islice(changes, count))
        return fold(self.base.get(target), patches)

    def life_of(self, target: Target) -> Iterator[tuple[ActionId, Values | None]]:
        """Each action that patches a row, in order, with the row just before it."""
        row = self.base.get(target)
        for _, id in self.changes.get(target, ()):
            yield id, row
            row = apply(row, self.patch(id, target))

    def is_known(self, target: Target, besides: ActionId | None = None) -> bool:
        """Whether anything is stored of a row in this audience, but for one action's patch."""
        places = self.changes.get(target, [])
        return target in self.base or any(id != besides for _, id in places[:2])

    def living(self, row: RowKey) -> dict[Audience, Values]:
        """The audiences in which a row key is now, with its values there."""
        targets = ((a, Target(row.table, row.key, a)) for a in self.homes.get(row, ()))
        return {audience: self.rows[t] for audience, t in targets if t in self.rows}

    def is_split(self, row: RowKey) -> bool:
        """Whether a row key lives in two audiences after some action of history (S9)."""
        targets = [Target(row.table, row.key, audience) for audience in self.homes.get(row, ())]
        if len(targets) < 2:
            return False
        living = {target for target in targets if target in self.base}
        for _, id in sorted({place for t in targets for place in self.changes.get(t, ())}):
            patches = self.actions[id].patches
            for target in targets:
                patch = patches[target].known.patch if target in patches else None
                if patch is not None and patch.op == "insert":
                    living.add(target)
                elif patch is not None and patch.op == "delete":
                    living.discard(target)
            if len(living) > 1:
                return True
        return len(living) > 1

    # ---- changes ------------------------------------------------------------------

    def stage_action(self, record: ActionRecord) -> None:
        self.undo.put(self.actions, record.id, StoredAction(record))
        self.undo.insort(self.order, (record.order_key, record.id))
        self.undo.append(self.staged, Stage(record.id, None))
        for audience in record.audiences or ():
            self.undo.put(self.scope(audience).actions, record.id, None)

    def stage_patch(
        self, id: ActionId, target: Target, patch: Patch | None, client: ClientId, user: str
    ) -> None:
        """Put a patch where it belongs in history; the row is not yet folded."""
        action = self.actions[id]
        if target not in action.patches:
            self._index(action, target)
        known = Known(patch, NONE, NONE)
        self.undo.put(action.patches, target, StoredPatch(known, client, user))

    def _index(self, action: StoredAction, target: Target) -> None:
        record, audience, undo = action.record, target.audience, self.undo
        undo.insort(self.changes.setdefault(target, []), (record.order_key, record.id))
        undo.put(self.homes.setdefault(target.row, {}), audience, None)
        undo.put(self.scope(audience).actions, record.id, None)
        undo.put(self.scope(audience).targets, target, None)
        if audience not in self.creators:
            undo.put(self.creators, audience, record.user)
            if audience not in self.peopled:
                undo.put(self.memberless.setdefault(record.user, {}), audience, None)

    def refold(self, target: Target, added: ActionId | None = None) -> None:
        """Fold a row anew (H5). Where `added` is all that is new and sorts last, apply it."""
        changes = self.changes[target]
        if added is not None and changes[-1][1] == added:
            row = apply(self.rows.get(target), self.patch(added, target))
        else:
            row = self._fold(target, changes, len(changes))
        if row is not None:
            self.undo.put(self.rows, target, row)
        elif target in self.rows:
            self.undo.drop(self.rows, target)

    def note_member(self, audience: Audience) -> None:
        """Remember for ever that an audience had a member (H7a)."""
        if audience not in self.peopled:
            self.undo.put(self.peopled, audience, None)
            mine = self.memberless.get(self.creators.get(audience, ""), {})
            self.undo.drop(mine, audience)

    def number(self, token: str) -> None:
        """Give what is staged its seqs, under the token of this commit.

        They rise in the order of history: else an upload would itself be a later event
        before its own patches, and give every reader standing over them.
        """
        if not self.staged:
            return
        seq = self.seq
        for id, target in sorted(self.staged, key=self._place):
            seq = Seq(seq + 1)
            self.undo.append(self.news, id)
            action = self.actions[id]
            if target is None:
                self._accept(action, seq)
            for t in action.patches if target is None else (target,):
                old = action.patches[t]
                known = Known(old.known.patch, seq, seq)
                self.undo.put(action.patches, t, old._replace(known=known))
        self.undo.set(self, "seq", seq)
        self.undo.append(self.commits, (seq, token))
        self.undo.set(self, "staged", [])

    def _place(self, stage: Stage) -> OrderKey:
        return self.actions[stage.action_id].record.order_key

    def _accept(self, action: StoredAction, seq: Seq) -> None:
        record = action.record
        self.undo.set(action, "seq", seq)
        self.undo.append(self.history, record)
        client = self.clients[record.client_id].with_accepted(split_action_id(record.id)[1])
        self.undo.put(self.clients, record.client_id, client)

    # ---- retention ----------------------------------------------------------------

    def prune(self, keep: int) -> int:
        """Fold all but the newest `keep` actions into the base rows; no row changes (F5)."""
        gone = [self.actions.pop(id) for _, id in self.order[: max(0, len(self.order) - keep)]]
        for action in gone:
            record = action.record
            for target, stored in action.patches.items():
                self._settle(target, stored.known.patch)
            for audience in {*(t.audience for t in action.patches), *(record.audiences or ())}:
                scope = self.scope(audience)
                scope.floor = record.order_key
                del scope.actions[record.id]
            self.floor = record.order_key
        self._forget_places(gone)
        return len(gone)

    def _settle(self, target: Target, patch: Patch | None) -> None:
        row = apply(self.base.get(target), patch)
        if row is None:
            self.base.pop(target, None)
        else:
            self.base[target] = row

    def _forget_places(self, gone: list[StoredAction]) -> None:
        del self.order[: len(gone)]
        for target in {target for action in gone for target in action.patches}:
            places = self.changes[target]
            del places[: bisect_right(places, self.floor or "", key=_order_key)]
            if not places and target not in self.base:
                del self.changes[target], self.scope(target.audience).targets[target]
                del self.homes[target.row][target.audience]
        pruned = max(
            (s for a in gone for s in (a.seq, *(p.known.seq for p in a.patches.values()))),
            default=self.pruned,
        )
        if pruned > self.pruned:
            del self.news[: pruned - self.pruned]
            self.pruned = Seq(pruned)
            del self.commits[: bisect_left(self.commits, (pruned,))]
