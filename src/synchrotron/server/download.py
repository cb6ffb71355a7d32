"""What a replica is told: events above its floor, and rows at it (F2, F6).

An event is *new* where the action or a visible patch of it has a seq beyond the replica's
cursor; it is given whole, with its present patches. The server never filters by client: a
replica's own events repair a lost reply or a restored file.

All of it is read as the user, under row level security: what they may not see is not there.
What an answer costs depends on what happened in their audiences since the cursor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.core.fold import fold
from synchrotron.core.ids import Audience, Seq
from synchrotron.core.messages import Download, Event, FloorRow, KnownPatch, Question
from synchrotron.core.patches import Patch, Target, Values
from synchrotron.core.records import ActionRecord
from synchrotron.server.database import Connection, fetch_one
from synchrotron.server.installed import Installed

_CANDIDATES = """
    WITH next AS (
        SELECT s.seq, s.order_key FROM unnest(%(mine)s::text[]) AS mine (audience)
        CROSS JOIN LATERAL (
            SELECT seq, order_key FROM synchrotron.scopes
            WHERE scopes.audience = mine.audience AND seq > %(cursor)s ORDER BY seq LIMIT %(limit)s
        ) AS s
        UNION
        (SELECT seq, order_key FROM synchrotron.actions
        WHERE user_id = %(user)s AND seq > %(cursor)s ORDER BY seq LIMIT %(limit)s)
        ORDER BY seq LIMIT %(limit)s
    )
    SELECT next.seq, next.order_key, EXISTS (
        SELECT FROM synchrotron.actions AS a
        WHERE a.order_key = next.order_key AND a.seq = next.seq
    ) OR EXISTS (
        SELECT FROM synchrotron.patches AS p
        WHERE p.order_key = next.order_key AND p.seq = next.seq AND p.audience = ANY (%(mine)s)
    ), (
        SELECT octet_length(a.args) FROM synchrotron.actions AS a
        WHERE a.order_key = next.order_key
    ) + (
        SELECT coalesce(sum(octet_length(p.columns) + octet_length(p.key)), 0)::bigint
        FROM synchrotron.patches AS p
        WHERE p.order_key = next.order_key AND p.audience = ANY (%(mine)s)
    )
    FROM next ORDER BY next.seq
"""
_ACTIONS = """
    WITH wanted AS (
        SELECT order_key FROM synchrotron.scopes
        WHERE audience = ANY (%(mine)s) AND seq > %(cursor)s AND seq <= %(upto)s
        UNION
        SELECT order_key FROM synchrotron.actions
        WHERE user_id = %(user)s AND seq > %(cursor)s AND seq <= %(upto)s
        UNION
        SELECT order_key FROM synchrotron.scopes
        WHERE audience = ANY (%(joined)s) AND seq <= %(upto)s
    )
    SELECT a.order_key, a.id, a.seed, a.name, a.version, a.args, a.now, a.client_id, a.user_id,
        a.audiences, a.seq
    FROM wanted JOIN synchrotron.actions AS a USING (order_key)
    ORDER BY a.order_key
"""
_PATCHES = """
    SELECT p.order_key, p.table_name, p.key, p.audience, p.op, p.columns, p.seq, p.basis
    FROM synchrotron.patches AS p
    WHERE p.order_key = ANY (%s) AND p.audience = ANY (%s) AND p.seq <= %s
"""
_TARGETS = """
    SELECT table_name, key, audience, base, present, newest FROM synchrotron.targets
    WHERE audience = ANY (%s)
    UNION
    SELECT t.table_name, t.key, t.audience, t.base, t.present, t.newest
    FROM unnest(%s::text[], %s::text[], %s::text[]) AS touched (table_name, key, audience)
    JOIN synchrotron.targets AS t USING (table_name, key, audience)
"""
_HISTORY = """
    SELECT p.table_name, p.key, p.audience, p.op, p.columns
    FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted (table_name, key, audience)
    JOIN synchrotron.patches AS p USING (table_name, key, audience)
    WHERE p.order_key <= %s
    ORDER BY p.order_key
"""
Place = tuple[str, str, str]
"""A target as it is stored: table, key as text, audience."""


CANDIDATES_PER_EVENT = 4
"""So many seqs are looked at for each event of a page, at first."""


class Viewer(NamedTuple):
    """A user and the audiences in which they may read."""

    user: str
    audiences: Sequence[Audience]


class Downloads:
    """Answers questions from what a connection sees."""

    def __init__(self, connection: Connection, installed: Installed, viewer: Viewer) -> None:
        self._connection = connection
        self._installed = installed
        self._viewer = viewer

    async def page(
        self, question: Question, events_max: int, bytes_max: int, newest: Seq
    ) -> Download:
        """What is new, up to the end of a page; `newest` is the horizon of what is read."""
        end = await self._page_end(question, events_max, bytes_max, newest)
        token, newest_token = await fetch_one(
            self._connection,
            "SELECT synchrotron.token_of(%s::bigint), synchrotron.token_of(%s::bigint)",
            end,
            newest,
        )
        page = await self._download(question, upto=end, horizon=end, token=token, newest=newest)
        return msgspec.structs.replace(page, newest=newest, newest_token=newest_token or "")

    async def _page_end(
        self, question: Question, events_max: int, bytes_max: int, newest: Seq
    ) -> Seq:
        """The last seq before one event too many; the first one is never that."""
        limit = CANDIDATES_PER_EVENT * min(events_max, newest) + 1
        while True:
            parameters = self._parameters(question, limit=limit)
            candidates = await self._fetch(_CANDIDATES, parameters)
            found: set[OrderKey] = set()
            page_bytes = 0
            for seq, key, is_present, event_bytes in candidates:
                if not is_present or key in found:
                    continue  # it was corrected again since; or it is on the page already
                page_bytes += event_bytes
                if len(found) == events_max or (found and page_bytes > bytes_max):
                    return Seq(seq - 1)
                found.add(key)
            if len(candidates) < limit:
                return newest
            limit *= CANDIDATES_PER_EVENT

    async def beside_upload(
        self, question: Question, before: Seq, horizon: Seq, token: str
    ) -> Download:
        """What is new, without the upload itself: it stored everything above `before`."""
        page = await self._download(
            question, upto=before, horizon=horizon, token=token, newest=before
        )
        return msgspec.structs.replace(page, more=False, newest=horizon, newest_token=token or "")

    async def _download(
        self, question: Question, *, upto: Seq, horizon: Seq, token: str, newest: Seq
    ) -> Download:
        """Events that happened by `upto`, with patches up to `newest` (F2a)."""
        floor = question.floor or FIRST
        joined = set(self._viewer.audiences).difference(question.audiences)
        events = [
            event
            for event, since in await self._events(question, joined, upto, newest)
            if any(since < seq <= upto for seq in _seqs(event))
        ]
        below = [event for event in events if event.record.order_key <= floor]
        touched = {patch.target for event in below for patch in event.patches}
        return Download(
            horizon=horizon,
            token=token or "",
            audiences=sorted(self._viewer.audiences),
            events=[e for e in events if e.record.order_key > floor],
            rows=[row async for row in self._floor_rows(floor, joined, touched)]
            if joined or touched
            else [],
            below=max((seq for event in below for seq in _seqs(event)), default=Seq(0)),
            more=horizon < newest,
        )

    def _parameters(self, question: Question, **more: Any) -> dict[str, Any]:
        mine = list(self._viewer.audiences)
        return {"user": self._viewer.user, "mine": mine, "cursor": question.cursor, **more}

    async def _fetch(self, statement: str, parameters: Any) -> list[Any]:
        done = await self._connection.execute(statement.encode(), parameters)
        return await done.fetchall()

    # ---- events -----------------------------------------------------------------------

    async def _events(
        self, question: Question, joined: set[Audience], upto: Seq, newest: Seq
    ) -> list[tuple[Event, Seq]]:
        """What may be new, in order, each with the seq beyond which it is."""
        parameters = self._parameters(question, joined=list(joined), upto=upto)
        rows = await self._fetch(_ACTIONS, parameters)
        if not rows:
            return []
        patches: dict[OrderKey, list[KnownPatch]] = defaultdict(list)
        keys = [row[0] for row in rows]
        for key, *patch in await self._fetch(
            _PATCHES, (keys, list(self._viewer.audiences), newest)
        ):
            patches[key].append(_known_patch(*patch))
        whole = await self._of_joined(keys, joined)
        return [
            (_event(row, patches.get(row[0], [])), Seq(0) if row[0] in whole else question.cursor)
            for row in rows
        ]

    async def _of_joined(self, keys: list[OrderKey], joined: set[Audience]) -> set[OrderKey]:
        """Those of audiences that were joined: there everything is new."""
        if not joined:
            return set()
        rows = await self._fetch(
            "SELECT order_key FROM synchrotron.scopes"
            " WHERE order_key = ANY (%s) AND audience = ANY (%s)",
            (keys, list(joined)),
        )
        return {key for (key,) in rows}

    # ---- rows at the replica's floor --------------------------------------------------

    async def _floor_rows(
        self, floor: OrderKey, joined: set[Audience], touched: set[Target]
    ) -> AsyncIterator[FloorRow]:
        """Rows as they stand at the replica's floor: those of joined audiences, and `touched`.

        A touched row that is not there is told as such; the replica may have it.
        """
        places = [(t.table, key_text(t.key), t.audience) for t in touched]
        rows = await self._fetch(_TARGETS, (list(joined), *columns_of(places, 3)))
        late = [tuple(row[:3]) for row in rows if row[5] is not None and row[5] > floor]
        histories = await self._histories(late, floor)
        found = []
        for table, key, audience, base, present, newest in rows:
            place = (table, key, audience)
            if newest is not None and newest > floor:
                values = fold(_values(base), histories.get(place, ()))
            else:
                values = _values(present)
            target = Target(table, tuple(decode(key)), audience)
            if values is not None or target in touched:
                found.append((target, values))
        for target, values in sorted(found, key=lambda item: _in_order(item[0])):
            yield self._floor_row(target, values)

    async def _histories(
        self, places: Sequence[Any], floor: OrderKey
    ) -> dict[Place, list[Patch | None]]:
        histories: dict[Place, list[Patch | None]] = defaultdict(list)
        if places:
            rows = await self._fetch(_HISTORY, (*columns_of(places, 3), floor))
            for table, key, audience, op, columns in rows:
                patch = None if op is None else Patch(op, columns)
                histories[table, key, audience].append(patch)
        return histories

    def _floor_row(self, target: Target, values: Values | None) -> FloorRow:
        if values is not None:
            values = dict(self._installed.defaults.complete(target.table, values))
        return FloorRow(target.table, list(target.key), target.audience, values)


# ---- from stored to sent --------------------------------------------------------------


def key_text(key: Sequence[Any]) -> str:
    return text_of(list(key))


def columns_of(rows: Iterable[Sequence[Any]], count: int) -> list[list[Any]]:
    """Rows as columns: the arrays that `unnest` takes."""
    columns: list[list[Any]] = [[] for _ in range(count)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def _values(text: str | None) -> Values | None:
    return None if text is None else decode(text)


def _seqs(event: Event) -> Iterator[Seq]:
    yield event.seq
    yield from (patch.seq for patch in event.patches)


def _event(row: Sequence[Any], patches: list[KnownPatch]) -> Event:
    order_key, id, seed, name, version, args, now, client, user, audiences, seq = row
    record = ActionRecord(
        id=id,
        seed=seed,
        name=name,
        version=version,
        args=decode(args),
        now=now,
        order_key=order_key,
        client_id=client,
        user=user,
        audiences=None if audiences is None else tuple(audiences),
    )
    return Event(record, seq, sorted(patches, key=lambda patch: _in_order(patch.target)))


def _known_patch(
    table: str, key: str, audience: Audience, op: Any, columns: str | None, seq: Seq, basis: Seq
) -> KnownPatch:
    values = decode(columns) if op in ("insert", "update") and columns is not None else None
    return KnownPatch(table, decode(key), audience, op, values, seq=seq, basis=basis)


def _in_order(target: Target) -> tuple[Any, ...]:
    return target.table, target.audience, target.key
