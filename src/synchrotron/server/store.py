"""Reading what an upload touches, and storing it once it was judged (H2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.clock import OrderKey
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq
from synchrotron.core.messages import SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.server.database import Connection, fetch, fetch_all
from synchrotron.server.download import columns_of, key_text
from synchrotron.server.history import History, Life, Place
from synchrotron.server.live import Home
from synchrotron.server.upload import Proposed, Stored

NOTICE_AUDIENCES_MAX = 100
"""More would not fit in the payload of a NOTIFY, which is limited to 8000 bytes."""
NOTICE_BYTES_MAX = 7900


class Touched(NamedTuple):
    """What is stored of the rows that an upload touches."""

    history: dict[Target, Life]
    homes: dict[RowKey, Home | None]
    taken: frozenset[OrderKey]
    """Which order keys of the actions are another's."""


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


async def load_touched(
    connection: Connection,
    actions: Sequence[SentAction],
    corrections: Iterable[SentCorrection],
    proposed: Mapping[int, Proposed],
) -> Touched:
    """The rows that an upload touches; with all patches where it does not sort last on one."""
    first: dict[Target, OrderKey | None] = {}
    for sent in actions:
        for patch in sent.patches:
            fault, target, _ = proposed[id(patch)]
            if fault is None:
                first.setdefault(target, sent.record.order_key)
    for correction in corrections:
        fault, target, _ = proposed[id(correction.patch)]
        if fault is None:
            first[target] = None
    row_keys = dict.fromkeys(target.row for target in first)
    keys = [(row.table, key_text(row.key)) for row in row_keys]
    taken, rows = await fetch_all(
        connection,
        (
            "SELECT synchrotron.taken_order_keys(%s::text[])",
            [sent.record.order_key for sent in actions],
        ),
        ("SELECT * FROM synchrotron.load_targets(%s::text[], %s::text[])", *columns_of(keys, 2)),
    )
    places = {Target(table, tuple(decode(key)), audience) for table, key, audience, *_ in rows}
    several = Counter(target.row for target in places | first.keys())
    history: dict[Target, Life] = {}
    homes: dict[RowKey, Home | None] = dict.fromkeys(row_keys)
    late: dict[tuple[str, str, str], tuple[Target, str | None]] = {}
    for table, key, audience, base, present, newest in rows:
        target = Target(table, tuple(decode(key)), audience)
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
    return Touched(history, homes, frozenset(key for (key,) in taken))


# ---- numbering ------------------------------------------------------------------------


class Numbered(NamedTuple):
    """What an upload stores, with its seqs."""

    last: Seq
    actions: dict[ActionId, Seq]
    corrections: dict[Place, Seq]


class Addition(NamedTuple):
    """What is to be stored, judged and in the order of history."""

    user: str
    client: ClientId
    actions: Sequence[SentAction]
    corrections: Sequence[tuple[Place, Patch | None, str]]
    """Each with the author of its action."""
    history: History
    changes_rights: bool
    proposed: Mapping[int, Proposed]

    @property
    def is_empty(self) -> bool:
        return not self.actions and not self.corrections

    def audiences(self) -> list[Audience]:
        """Those in which something changes."""
        declared = chain.from_iterable(sent.record.audiences or () for sent in self.actions)
        patched = (p.audience for sent in self.actions for p in sent.patches)
        corrected = (place.target.audience for place, _, _ in self.corrections)
        return list(dict.fromkeys(chain(declared, patched, corrected)))


async def store(connection: Connection, addition: Addition, last: Seq, token: str) -> Numbered:
    """Give what was judged its seqs, under the token of this commit. The counter is held.

    Seqs rise in the order of history: else an upload would itself be a later event before
    its own patches, and give every reader standing over them.
    """
    places: list[tuple[OrderKey, SentAction | tuple[Place, Patch | None, str]]] = [
        (correction[0].order_key, correction) for correction in addition.corrections
    ]
    places += [(sent.record.order_key, sent) for sent in addition.actions]
    rows = _Rows(addition, last)
    for _, what in sorted(places, key=lambda place: place[0]):
        if isinstance(what, SentAction):
            rows.add_action(what)
        else:
            rows.add_correction(*what)
    await fetch(
        connection,
        "SELECT synchrotron.store(%s, %s, %s, %s, %s, %s::json, %s::json, %s::json, %s::json,"
        " %s::json, %s::json, %s)",
        addition.user,
        addition.client,
        rows.last,
        token,
        addition.changes_rights,
        text_of(rows.actions),
        text_of(list(rows.patches.values())),
        text_of(list(rows.scopes.values())),
        text_of(list(_target_rows(addition.history))),
        text_of([{"audience": a, "creator": user} for a, user in rows.creators.items()]),
        text_of(rows.names),
        _notice(addition, rows.last),
    )
    return Numbered(rows.last, rows.action_seqs, rows.correction_seqs)


class _Rows:
    """The rows of the sync schema's tables that an upload brings."""

    def __init__(self, addition: Addition, last: Seq) -> None:
        self._proposed = addition.proposed
        self.last = last
        self.action_seqs: dict[ActionId, Seq] = {}
        self.correction_seqs: dict[Place, Seq] = {}
        self.actions: list[dict[str, Any]] = []
        self.patches: dict[Place, dict[str, Any]] = {}
        self.scopes: dict[tuple[Seq, Audience], dict[str, Any]] = {}
        self.creators: dict[Audience, str] = {}
        self.names: list[dict[str, str]] = []

    def _next(self) -> Seq:
        self.last = Seq(self.last + 1)
        return self.last

    def add_action(self, sent: SentAction) -> None:
        record, seq = sent.record, self._next()
        self.action_seqs[record.id] = seq
        self.actions.append(
            {
                "order_key": record.order_key,
                "id": record.id,
                "seed": record.seed,
                "name": record.name,
                "version": record.version,
                "args": text_of(record.args),
                "now": record.now,
                "audiences": record.audiences,
                "seq": seq,
            }
        )
        for audience in record.audiences or ():
            self._scope(record.order_key, audience, seq)
        for patch in sent.patches:
            _, target, read = self._proposed[id(patch)]
            self._patch(Place(record.order_key, target), read, record.user, seq)
        self.names += [{"id": old, "seed": record.seed} for old in sent.formerly]

    def add_correction(self, place: Place, patch: Patch | None, author: str) -> None:
        seq = self._next()
        self.correction_seqs[place] = seq
        self._patch(place, patch, author, seq)

    def _patch(self, place: Place, patch: Patch | None, author: str, seq: Seq) -> None:
        key, target = place
        self.patches[place] = {
            "table_name": target.table,
            "key": key_text(target.key),
            "audience": target.audience,
            "order_key": key,
            "op": patch.op if patch else None,
            "columns": patch.columns if patch else None,
            "seq": seq,
        }
        self._scope(key, target.audience, seq)
        self.creators.setdefault(target.audience, author)

    def _scope(self, key: OrderKey, audience: Audience, seq: Seq) -> None:
        self.scopes[seq, audience] = {"order_key": key, "audience": audience, "seq": seq}


def _target_rows(history: History) -> Iterable[Mapping[str, Any]]:
    for target, life in history.staged():
        yield {
            "table_name": target.table,
            "key": key_text(target.key),
            "audience": target.audience,
            "present": None if life.row is None else text_of(life.row),
            "newest": life.keys[-1],
        }


def _notice(addition: Addition, seq: Seq) -> str:
    """What listeners are told of this commit: whom it may concern, None for anyone."""
    audiences: list[Audience] | None = addition.audiences()
    if addition.changes_rights or len(audiences or ()) > NOTICE_AUDIENCES_MAX:
        audiences = None
    notice = text_of({"seq": seq, "user": addition.user, "audiences": audiences})
    if len(notice.encode()) > NOTICE_BYTES_MAX:
        notice = text_of({"seq": seq, "user": None, "audiences": None})
    return notice
