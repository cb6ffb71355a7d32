"""Reading what an upload touches, and storing it once it was judged (H2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.clock import OrderKey
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq, number_of
from synchrotron.core.messages import SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.server.database import Connection, fetch
from synchrotron.server.download import columns_of, key_text
from synchrotron.server.history import History, Life, Place
from synchrotron.server.live import Home
from synchrotron.server.parameters import Columns, json_text, multirange, text_array
from synchrotron.server.upload import Proposed, Stored

NOTICE_AUDIENCES_MAX = 100
"""More would not fit in the payload of a NOTIFY, which is limited to 8000 bytes."""
NOTICE_BYTES_MAX = 7900


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


def keys_of(
    actions: Sequence[SentAction],
    corrections: Sequence[SentCorrection],
    proposed: Mapping[int, Proposed],
) -> str:
    """The row keys that an upload touches, as `synchrotron.load_targets` takes them."""
    wanted: dict[str, dict[str, None]] = {}
    patches = chain.from_iterable(sent.patches for sent in actions)
    for patch in chain(patches, (correction.patch for correction in corrections)):
        fault, target, _, key, _ = proposed[id(patch)]
        if fault is None:
            wanted.setdefault(target.table, {})[key] = None
    return json_text({table: list(keys) for table, keys in wanted.items()})


async def touched_by(
    connection: Connection,
    actions: Sequence[SentAction],
    corrections: Iterable[SentCorrection],
    proposed: Mapping[int, Proposed],
    rows: Sequence[Any],
) -> Touched:
    """The rows that an upload touches; with all patches where it does not sort last on one.

    `rows` are what `synchrotron.load_targets` gives.
    """
    if not rows:
        return Touched({}, {})
    first: dict[Target, OrderKey | None] = {}
    for sent in actions:
        for patch in sent.patches:
            fault, target, _, key, _ = proposed[id(patch)]
            if fault is None:
                first.setdefault(target, sent.record.order_key)
    for correction in corrections:
        fault, target, _, _, _ = proposed[id(correction.patch)]
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


# ---- numbering ------------------------------------------------------------------------


class Numbered(NamedTuple):
    """What an upload stores, with its seqs."""

    last: Seq
    actions: dict[ActionId, Seq]
    corrections: dict[Place, Seq]


class Addition:
    """What is to be stored, judged and in the order of history.

    Each of the corrections comes with the author of its action.
    """

    def __init__(
        self,
        user: str,
        client: ClientId,
        actions: Sequence[SentAction],
        corrections: Sequence[tuple[Place, Patch | None, str]],
        history: History,
        proposed: Mapping[int, Proposed],
    ) -> None:
        self.user = user
        self.client = client
        self.actions = actions
        self.corrections = corrections
        self.history = history
        self.proposed = proposed
        declared = chain.from_iterable(sent.record.audiences or () for sent in actions)
        patched = (p.audience for sent in actions for p in sent.patches)
        corrected = (place.target.audience for place, _, _ in corrections)
        self.audiences: list[Audience] = list(dict.fromkeys(chain(declared, patched, corrected)))
        """Those in which something changes."""

    @cached_property
    def rows(self) -> _Rows:
        """As they are stored: made once, when everything is staged."""
        return _Rows(self)


Lease: TypeAlias = tuple[str, list[Audience], int, list[Audience]]
"""Another client's lease: its user, what they saw when it was granted, its end, what they see."""


class Standing(NamedTuple):
    """Where the replica stood when its upload was judged, and the server."""

    cursor: Seq
    known: list[Audience]
    seen: Seq
    audiences: list[Audience]
    floor: OrderKey | None
    now_ms: int


class After(NamedTuple):
    """What there is once an upload is stored, as `synchrotron.store` tells it.

    Nothing was stored where the judgement was stale or the replica behind; then the rest is None.
    """

    before: Seq
    is_stale: bool
    behind: bool
    token: str | None
    audiences: list[Audience] | None
    joined_floor: OrderKey | None
    has_news: bool | None
    leases: list[Lease] | None


_ACTIONS = Columns(
    order_key="text",
    id="text",
    seed="text",
    name="text",
    version="integer",
    args="text",
    now="timestamptz",
    audiences="text",
    n="bigint",
)
_SCOPES = Columns(audience="text", order_key="text", n="bigint")
_PATCHES = Columns(
    table_name="text",
    key="text",
    audience="text",
    order_key="text",
    op="text",
    columns="text",
    n="bigint",
    is_new="boolean",
)
_STORE = (
    "SELECT * FROM synchrotron.store(%s, %s, %s::bigint, %s::text[], %s::bigint, %s::text[],"
    " %s, %s::bigint, %s::text[], %s, %s, %s, %s::int8multirange,"
    f" {_ACTIONS.placeholders}, {_SCOPES.placeholders}, {_PATCHES.placeholders},"
    " %s::json, %s::json, %s::json, %s::json, %s)"
)


async def store(
    connection: Connection,
    addition: Addition,
    standing: Standing,
    token: str,
    *,
    changes_rights: bool,
) -> tuple[Numbered, After]:
    """Take the counter, and give what was judged its seqs, under the token of this commit.

    Seqs rise in the order of history: else an upload would itself be a later event before
    its own patches, and give every reader standing over them.
    """
    rows = addition.rows
    [row] = await fetch(
        connection,
        _STORE,
        addition.user,
        addition.client,
        standing.cursor,
        standing.known,
        standing.seen,
        standing.audiences,
        standing.floor,
        standing.now_ms,
        addition.audiences,
        changes_rights,
        rows.count,
        token,
        rows.numbers,
        *rows.parameters,
        _notice(addition, changes_rights=changes_rights),
    )
    after = After(*row)
    return rows.numbered(after.before), after


class _Rows:
    """The rows of the sync schema's tables that an upload brings, numbered from 1."""

    def __init__(self, addition: Addition) -> None:
        self._addition = addition
        self.count = 0
        self.actions: list[tuple[Any, ...]] = []
        self.scopes: list[tuple[Any, ...]] = []
        self.patches: list[tuple[Any, ...]] = []
        self.corrections: list[dict[str, Any]] = []
        self.creators: dict[Audience, str] = {}
        self.names: list[dict[str, str]] = []
        corrected = (place.target for place, _, _ in addition.corrections)
        self._made = addition.history.made().difference(corrected)
        self._declared: dict[tuple[Audience, ...] | None, str] = {None: ""}
        self._action_numbers: dict[ActionId, int] = {}
        self._correction_numbers: dict[Place, int] = {}
        places: list[tuple[OrderKey, SentAction | tuple[Place, Patch | None, str]]] = [
            (correction[0].order_key, correction) for correction in addition.corrections
        ]
        places += [(sent.record.order_key, sent) for sent in addition.actions]
        if addition.corrections:  # actions alone are in order
            places.sort(key=lambda place: place[0])
        for _, what in places:
            self.count += 1
            if isinstance(what, SentAction):
                self._add_action(what)
            else:
                self._add_correction(*what)
        self.numbers = multirange(number_of(sent.record.id) for sent in addition.actions)
        creators = [{"audience": a, "creator": user} for a, user in self.creators.items()]
        self.parameters = (
            *_ACTIONS.arrays(self.actions),
            *_SCOPES.arrays(self.scopes),
            *_PATCHES.arrays(self.patches),
            *(json_text(some) if some else None for some in (self.corrections, self.targets())),
            json_text(creators),
            json_text(self.names) if self.names else None,
        )
        """For `synchrotron.store`, in their order."""

    def numbered(self, before: Seq) -> Numbered:
        return Numbered(
            Seq(before + self.count),
            {id: Seq(before + n) for id, n in self._action_numbers.items()},
            {place: Seq(before + n) for place, n in self._correction_numbers.items()},
        )

    def _add_action(self, sent: SentAction) -> None:
        record, n = sent.record, self.count
        order_key, declared = record.order_key, record.audiences
        self._action_numbers[record.id] = n
        scopes = dict.fromkeys(declared or ())
        for patch in sent.patches:
            _, target, _, key, read = self._addition.proposed[id(patch)]
            assert read is not None
            table, _, audience = target
            op, columns, is_new = read.op, read.columns, target in self._made
            self.patches.append((table, key, audience, order_key, op, columns, n, is_new))
            scopes[audience] = None
            self.creators.setdefault(audience, record.user)
        self.scopes += [(audience, order_key, n) for audience in scopes]
        self.actions.append(
            (
                order_key,
                record.id,
                record.seed,
                record.name,
                record.version,
                text_of(record.args),
                record.now,
                self._declared_text(declared),
                n,
            )
        )
        for old in sent.formerly:
            self.names.append({"id": old, "seed": record.seed})

    def _declared_text(self, declared: tuple[Audience, ...] | None) -> str:
        text = self._declared.get(declared)
        if text is None:
            text = self._declared[declared] = text_array(declared or ())
        return text

    def _add_correction(self, place: Place, patch: Patch | None, author: str) -> None:
        key, target = place
        self._correction_numbers[place] = self.count
        self.corrections.append(
            {
                "table_name": target.table,
                "key": key_text(target.key),
                "audience": target.audience,
                "order_key": key,
                "op": patch.op if patch else None,
                "columns": patch.columns if patch else None,
                "n": self.count,
            }
        )
        self.creators.setdefault(target.audience, author)

    def targets(self) -> list[Mapping[str, Any]]:
        """The rows as they are now, but for those that a single patch made: it says it already."""
        return [
            {
                "table_name": target.table,
                "key": key_text(target.key),
                "audience": target.audience,
                "present": None if life.row is None else text_of(life.row),
                "newest": life.keys[-1],
            }
            for target, life in self._addition.history.staged()
            if target not in self._made
        ]


def _notice(addition: Addition, *, changes_rights: bool) -> str:
    """What listeners are told of a commit, up to its seq: whom it concerns, None for anyone."""
    audiences: list[Audience] | None = addition.audiences
    if changes_rights or len(audiences or ()) > NOTICE_AUDIENCES_MAX:
        audiences = None
    notice = text_of({"audiences": audiences, "user": addition.user})
    if len(notice.encode()) > NOTICE_BYTES_MAX:
        notice = text_of({"audiences": None, "user": None})
    return notice[:-1] + ',"seq":'
