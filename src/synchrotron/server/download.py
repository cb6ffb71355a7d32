"""What a replica is told: events above its floor, and rows at it (F2, F6).

An event is *new* where the action or a visible patch of it has a seq beyond the replica's
cursor; it is given whole, with its present patches. The server never filters by client: a
replica's own events repair a lost reply or a restored file.

All of it is read as the user, under row level security: what they may not see is not there.
What an answer costs depends on what happened in their audiences since the cursor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from synchrotron.core.canonical import decode, text_of
from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.core.fold import fold
from synchrotron.core.ids import Audience, Seq
from synchrotron.core.messages import Download, Event, FloorRow, Question
from synchrotron.core.patches import Patch, Target, Values
from synchrotron.server.database import Connection, Query, fetch, fetch_all
from synchrotron.server.installed import Installed
from synchrotron.server.parameters import columns_of

_TARGETS = "SELECT * FROM synchrotron.page_targets(%s::text[], %s::text[], %s::text[], %s::text[])"
_HISTORY = "SELECT * FROM synchrotron.page_history(%s::text[], %s::text[], %s::text[], %s)"
Place = tuple[str, str, str]
"""A target as it is stored: table, key as text, audience."""


CANDIDATES_FACTOR = 4
"""A page with corrections needs more candidates than events: so many times more each time."""
_decode_events = msgspec.json.Decoder(list[Event]).decode


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
        [[token, newest_token]], found = await fetch_all(
            self._connection,
            [
                (
                    "SELECT synchrotron.token_of(%s::bigint), synchrotron.token_of(%s::bigint)",
                    end,
                    newest,
                ),
                self._events_of(question, upto=end, newest=newest),
            ],
        )
        page = await self._download(question, found, upto=end, horizon=end, token=token)
        return msgspec.structs.replace(
            page, more=end < newest, newest=newest, newest_token=newest_token or ""
        )

    async def _page_end(
        self, question: Question, events_max: int, bytes_max: int, newest: Seq
    ) -> Seq:
        """The last seq before one event too many; the first one is never that."""
        limit = min(events_max, newest) + 1
        while True:
            candidates = await fetch(
                self._connection,
                "SELECT * FROM synchrotron.page_candidates(%s, %s::text[], %s::bigint, %s::bigint)",
                self._viewer.user,
                self._viewer.audiences,
                question.cursor,
                limit,
            )
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
            limit *= CANDIDATES_FACTOR

    async def beside_upload(
        self, question: Question, before: Seq, horizon: Seq, token: str
    ) -> Download:
        """What is new, without the upload itself: it stored everything above `before`."""
        found = await fetch(
            self._connection, *self._events_of(question, upto=before, newest=before)
        )
        page = await self._download(question, found, upto=before, horizon=horizon, token=token)
        return msgspec.structs.replace(page, newest=horizon, newest_token=token or "")

    async def _download(
        self, question: Question, found: Sequence[Any], *, upto: Seq, horizon: Seq, token: str
    ) -> Download:
        """Events that happened by `upto`; `found` is what the query of events gives."""
        floor = question.floor or FIRST
        joined = self._joined(question)
        events = list(_new(found, question.cursor, upto))
        below = [event for event in events if event.record.order_key <= floor]
        touched = {patch.target for event in below for patch in event.patches}
        return Download(
            horizon=horizon,
            token=token or "",
            audiences=sorted(self._viewer.audiences),
            events=[e for e in events if e.record.order_key > floor] if below else events,
            rows=[row async for row in self._floor_rows(floor, joined, touched)]
            if joined or touched
            else [],
            below=max((seq for event in below for seq in _seqs(event)), default=Seq(0)),
        )

    def _joined(self, question: Question) -> set[Audience]:
        return set(self._viewer.audiences).difference(question.audiences)

    def _events_of(self, question: Question, *, upto: Seq, newest: Seq) -> Query:
        """What may be new by `upto`, with patches up to `newest` (F2a)."""
        return (
            "SELECT * FROM synchrotron.page_events("
            "%s, %s::text[], %s::text[], %s::bigint, %s::bigint, %s::bigint)",
            self._viewer.user,
            self._viewer.audiences,
            list(self._joined(question)),
            question.cursor,
            upto,
            newest,
        )

    async def _fetch(self, statement: str, parameters: Any) -> list[Any]:
        return await fetch(self._connection, statement, *parameters)

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


def _values(text: str | None) -> Values | None:
    return None if text is None else decode(text)


def _new(found: Sequence[Any], cursor: Seq, upto: Seq) -> Iterator[Event]:
    """Events that are new beyond a cursor; those of joined audiences as a whole.

    They come as JSON, and all are decoded at once: to make them of columns took five times as
    long.
    """
    events = _decode_events("[" + ",".join(text for text, _ in found) + "]")
    for event, (_, is_whole) in zip(events, found, strict=True):
        since = 0 if is_whole else cursor
        if any(since < seq <= upto for seq in _seqs(event)):
            if len(event.patches) > 1:
                event.patches.sort(key=lambda patch: _in_order(patch.target))
            yield event


def _seqs(event: Event) -> Iterator[Seq]:
    yield event.seq
    yield from (patch.seq for patch in event.patches)


def _in_order(target: Target) -> tuple[Any, ...]:
    return target.table, target.audience, target.key
