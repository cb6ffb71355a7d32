"""Storing an upload once it was judged (H2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from synchrotron.core.canonical import text_of
from synchrotron.core.clock import OrderKey
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq, number_of
from synchrotron.core.messages import SentAction
from synchrotron.core.patches import Patch
from synchrotron.server.brought import Brought
from synchrotron.server.database import Query
from synchrotron.server.download import key_text
from synchrotron.server.history import History, Place
from synchrotron.server.parameters import Columns, columns_of, json_text, multirange, text_array

NOTICE_AUDIENCES_MAX = 100
"""More would not fit in the payload of a NOTIFY, which is limited to 8000 bytes."""
NOTICE_BYTES_MAX = 7900


class Numbered(NamedTuple):
    """What an upload stores, with its seqs."""

    last: Seq
    actions: dict[ActionId, Seq]
    corrections: dict[Place, Seq]


class Addition:
    """What is to be stored, judged.

    `actions` are those that were brought, `corrections` those that are allowed, each with the
    author of its action.
    """

    def __init__(
        self,
        user: str,
        client: ClientId,
        brought: Brought,
        actions: Sequence[SentAction],
        corrections: Sequence[tuple[Place, Patch | None, str]],
        history: History,
    ) -> None:
        self.user = user
        self.client = client
        self.brought = brought
        self.actions = actions
        self.corrections = corrections
        self.history = history
        corrected = (place.target.audience for place, _, _ in corrections)
        self.audiences: list[Audience] = list(
            dict.fromkeys(chain(brought.declared, brought.patched, corrected))
        )
        """Those in which something changes."""

    @cached_property
    def rows(self) -> _Rows:
        """As they are stored."""
        return _Rows(self)


Lease: TypeAlias = tuple[str, list[Audience], int, list[Audience]]
"""Another client's lease: its user, what they saw when it was granted, its end, what they see."""


class Standing(NamedTuple):
    """Where the replica stood when its upload was judged, and the server."""

    cursor: Seq
    known: list[Audience]
    """In which audiences the user was, as far as the replica knew."""
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


def storing(addition: Addition, standing: Standing, token: str, *, changes_rights: bool) -> Query:
    """Take the counter, and give what was judged its seqs, under the token of this commit.

    It gives the row for `After`. Seqs rise in the order of history: else an upload would itself be
    a later event before its own patches, and give every reader standing over them.
    """
    rows = addition.rows
    return (
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
        rows.client_numbers,
        *rows.parameters,
        _notice(addition, changes_rights=changes_rights),
    )


class _Rows:
    """The rows of the sync schema's tables that an upload brings, numbered from 1."""

    def __init__(self, addition: Addition) -> None:
        self._addition = addition
        actions, corrections = addition.actions, addition.corrections
        self.count = len(actions) + len(corrections)
        numbers = self._numbers()
        self._corrections = list(zip(corrections, numbers, strict=False))
        self._actions = list(zip(actions, numbers[len(corrections) :], strict=True))
        corrected = (place.target for place, _, _ in corrections)
        self._made = addition.history.made().difference(corrected)
        self.client_numbers = multirange([number_of(sent.record.id) for sent in actions])
        """The n of the actions, which their client has used up with them."""
        self.parameters = (
            *self._action_arrays(),
            *self._scope_arrays(),
            *self._patch_arrays(),
            *map(
                _json_or_null,
                (self._correction_rows(), self._targets(), self._creators(), self._names()),
            ),
        )
        """For `synchrotron.store`, in their order."""

    def _numbers(self) -> Sequence[int]:
        """Of each correction, then of each action: its place in the order of history."""
        corrections, actions = self._addition.corrections, self._addition.actions
        if not corrections:  # actions alone are in order
            return range(1, self.count + 1)
        keys = [place.order_key for place, _, _ in corrections]
        keys += [sent.record.order_key for sent in actions]
        numbers = [0] * self.count
        for n, i in enumerate(sorted(range(self.count), key=keys.__getitem__), 1):
            numbers[i] = n
        return numbers

    def numbered(self, before: Seq) -> Numbered:
        return Numbered(
            Seq(before + self.count),
            {sent.record.id: Seq(before + n) for sent, n in self._actions},
            {place: Seq(before + n) for (place, _, _), n in self._corrections},
        )

    def _action_arrays(self) -> list[str]:
        records = [sent.record for sent, _ in self._actions]
        return _ACTIONS.arrays(
            [record.order_key for record in records],
            [record.id for record in records],
            [record.seed for record in records],
            [record.name for record in records],
            [record.version for record in records],
            [text_of(record.args) for record in records],
            [record.now for record in records],
            _declared_texts([record.audiences for record in records]),
            [n for _, n in self._actions],
        )

    def _scope_arrays(self) -> list[str]:
        scopes = [
            (audience, sent.record.order_key, n)
            for sent, n in self._actions
            for audience in dict.fromkeys(
                [*(sent.record.audiences or ()), *[patch.audience for patch in sent.patches]]
            )
        ]
        return _SCOPES.arrays(*columns_of(scopes, 3))

    def _patch_arrays(self) -> list[str]:
        proposed, made = self._addition.brought.proposed, self._made
        rows: list[tuple[Any, ...]] = []
        for sent, n in self._actions:
            order_key = sent.record.order_key
            for sent_patch in sent.patches:
                _, target, _, key, patch = proposed[id(sent_patch)]
                assert patch is not None  # an action that is new removes none
                table, _, audience = target
                op, columns, is_new = patch.op, patch.columns, target in made
                rows.append((table, key, audience, order_key, op, columns, n, is_new))
        return _PATCHES.arrays(*columns_of(rows, 8))

    def _correction_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "table_name": target.table,
                "key": key_text(target.key),
                "audience": target.audience,
                "order_key": order_key,
                "op": patch.op if patch else None,
                "columns": patch.columns if patch else None,
                "n": n,
            }
            for ((order_key, target), patch, _), n in self._corrections
        ]

    def _targets(self) -> list[dict[str, Any]]:
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

    def _creators(self) -> list[dict[str, str]]:
        """Of each audience with a patch: the author of the first, in the order of history (H7a)."""
        user = self._addition.user
        authors = [(n, place.target.audience, who) for (place, _, who), n in self._corrections]
        authors += [(n, p.audience, user) for sent, n in self._actions for p in sent.patches]
        creators = {audience: who for _, audience, who in sorted(authors, reverse=True)}
        return [{"audience": audience, "creator": who} for audience, who in creators.items()]

    def _names(self) -> list[dict[str, str]]:
        return [
            {"id": former, "seed": sent.record.seed}
            for sent, _ in self._actions
            for former in sent.formerly
        ]


def _json_or_null(rows: Sequence[Any]) -> str | None:
    return json_text(rows) if rows else None


def _declared_texts(declared: Iterable[tuple[Audience, ...] | None]) -> list[str]:
    """The audiences of actions as arrays, "" where none are declared."""
    made = lru_cache(text_array)  # mostly they are the same ones again
    return ["" if audiences is None else made(audiences) for audiences in declared]


def _notice(addition: Addition, *, changes_rights: bool) -> str:
    """What listeners are told of a commit, up to its seq: whom it concerns, None for anyone."""
    audiences: list[Audience] | None = addition.audiences
    if changes_rights or len(audiences or ()) > NOTICE_AUDIENCES_MAX:
        audiences = None
    notice = text_of({"audiences": audiences, "user": addition.user})
    if len(notice.encode()) > NOTICE_BYTES_MAX:
        notice = text_of({"audiences": None, "user": None})
    return notice[:-1] + ',"seq":'
