"""One exchange with the server: the order in which it is judged.

1. Whose is the client id, and is this the next request of its file? (H9, O6)
2. Does the replica's schema fit, and its cursor this server's history? (S11, H11, F3)
3. A mere question is answered.
4. May the actions' order keys be stored at all? (F4, O4)
5. Does the replica know what its user can see? (H3)
6. Is every patch allowed, and the end state valid? (H1, H5, H6, in `uploads`)
7. Is nobody else next? (H3) Only now the counter moves, and all is one commit (H2).

What is decided before the end stores nothing but the request's number and token. An
exception, as for a message that the protocol does not allow, leaves nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from msgspec import UNSET

from synchrotron.core.clock import FIRST, timestamp_of
from synchrotron.core.ids import ActionId, ClientId, Entropy, Seq, split_action_id
from synchrotron.core.messages import (
    Answer,
    Behind,
    Busy,
    Duplicate,
    Early,
    Epoch,
    Exchange,
    Fate,
    Install,
    Offer,
    Ok,
    Rebase,
    Resume,
    SnapshotChunk,
    SnapshotEnd,
    SnapshotHead,
    SnapshotRequest,
    Staged,
    Stale,
    Superseded,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ProtocolError
from synchrotron.server.clients import Client
from synchrotron.server.fates import told_in_snapshot
from synchrotron.server.form import offers_of, require_order, require_protocol, require_single
from synchrotron.server.parts import Parts, with_part
from synchrotron.testing.downloads import Downloads
from synchrotron.testing.gate import Gate
from synchrotron.testing.membership import Membership, Viewer
from synchrotron.testing.proposals import Proposals
from synchrotron.testing.rights import Rights
from synchrotron.testing.server_state import State
from synchrotron.testing.server_tables import ServerTables
from synchrotron.testing.uploads import Judgement, Upload, differences

A = TypeVar("A", bound=Answer)


class Settings(NamedTuple):
    """What an operator chooses."""

    schema: int
    """How many migrations the server has seen."""
    max_clock_drift_ms: int
    max_backdate_ms: int | None
    page_events: int | None
    clock: Callable[[], int]
    """Milliseconds since the epoch."""
    entropy: Entropy


class Exchanges:
    """Answers the requests of all clients, one at a time."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        tables: ServerTables,
        proposals: Proposals,
        membership: Membership,
        rights: Rights,
    ) -> None:
        self._settings = settings
        self._state = state
        self._tables = tables
        self._proposals = proposals
        self._membership = membership
        self._rights = rights
        self._gate = Gate(state, membership)
        self._downloads = Downloads(
            state, tables.schema.tables, tables.complete, settings.page_events
        )
        self._now_ms = 0

    def sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        """Answer an upload and a question. Raises `ProtocolError`."""
        with self._atomic():
            return self._sync(user, request)

    def snapshot(self, user: str, request: SnapshotRequest) -> list[SnapshotChunk]:
        """A snapshot (F1), or a refusal as the only chunk. Raises `ProtocolError`."""
        with self._atomic():
            return self._snapshot(user, request)

    def has_news(self, user: str, cursor: Seq) -> bool:
        """Whether anything that this user can see was committed after `cursor`."""
        viewer = self._membership.viewer(user)
        ids = {id for _, id in self._state.since(cursor)}
        return any(viewer.sees(self._state.actions[id]) for id in ids)

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        self._now_ms = self._settings.clock()
        self._tables.begin()
        try:
            yield
        except BaseException:
            self._state.undo.back_to(0)
            self._tables.back_to_begin()
            raise
        finally:
            self._state.undo.commit()
            self._tables.commit()

    def _answer(self, kind: type[A], **fields: Any) -> A:
        return kind(now_ms=self._now_ms, floor=self._state.floor, **fields)

    # ---- the two requests ---------------------------------------------------------

    def _sync(self, user: str, request: SyncRequest) -> SyncAnswer:
        require_protocol(request.protocol)
        if request.parts == 1:
            return self._judge(user, request)
        kept = self._keep_part(user, request)
        return self._judge(user, kept.whole()) if isinstance(kept, Parts) else kept

    def _keep_part(
        self, user: str, request: SyncRequest
    ) -> Parts | Staged | Duplicate | Superseded:
        """Keep one part of an upload, which advances nothing; give the parts that are whole."""
        id, offers = request.exchange.client_id, offers_of(request)
        foreign = self._is_foreign(request)
        if refusal := self._recognise(user, request.exchange, offers, foreign=foreign):
            return refusal
        parts = with_part(self._state.parts.get(id), request)
        self._gate.came(id, self._now_ms)
        if parts.missing:
            self._state.undo.put(self._state.parts, id, parts)
            return self._answer(Staged, missing=parts.missing)
        return parts

    def _judge(self, user: str, request: SyncRequest) -> SyncAnswer:
        exchange, question = request.exchange, request.question
        require_order(request.actions)
        require_single(request.corrections)
        foreign = self._is_foreign(request)
        offers = offers_of(request)
        if refusal := self._recognise(user, exchange, offers, foreign=foreign):
            return refusal
        self._advance(user, exchange)
        if any(self._ran_elsewhere(o, self._fate(exchange.client_id, o)) for o in offers):
            return self._superseded(exchange.client_id, offers)
        if request.schema > self._settings.schema:
            return self._answer(Install, schema=self._settings.schema)
        if foreign:
            return self._answer(Epoch)
        self._membership.note_members()
        viewer = self._membership.viewer(user)
        if question.cursor < self._state.pruned or self._downloads.needs_rebase(viewer, question):
            return self._answer(Rebase)
        if not request.actions and not request.corrections:
            page = self._downloads.page(viewer, question, request.events_max)
            return self._answer(Ok, download=page)
        answer = self._upload(viewer, request)
        if not isinstance(answer, Behind | Busy):
            self._gate.decided(exchange.client_id)
        return answer

    def _snapshot(self, user: str, request: SnapshotRequest) -> list[SnapshotChunk]:
        require_protocol(request.protocol)
        client, offers = request.exchange.client_id, request.offers
        if refusal := self._recognise(user, request.exchange, offers, foreign=False):
            return [refusal]
        self._advance(user, request.exchange)
        if request.schema > self._settings.schema:
            return [self._answer(Install, schema=self._settings.schema)]
        self._membership.note_members()
        viewer = self._membership.viewer(user)
        resume = request.resume
        if resume and not (self._has_row(resume) and self._downloads.can_resume(viewer, resume)):
            resume = None
        changes = self._downloads.snapshot_changes(viewer, resume) if resume else ()
        rows = list(self._downloads.snapshot_rows(viewer, resume.target if resume else None))
        accepted, pruned = told_in_snapshot(
            client,
            offers,
            has_run=lambda offer: self._fate(client, offer).seed == offer.seed,
            was_pruned=lambda id: self._is_same_user(client, id) and self._state.was_pruned(id),
        )
        head = SnapshotHead(
            now_ms=self._now_ms,
            floor=self._state.newest,
            server_floor=self._state.floor,
            horizon=self._state.seq,
            token=self._state.token_of(self._state.seq) or "",
            audiences=sorted(viewer.audiences),
            accepted=accepted,
            resumed=resume is not None,
            pruned=pruned or UNSET,
        )
        return [head, *changes, *rows, SnapshotEnd(sum(len(chunk.rows) for chunk in rows))]

    def _has_row(self, resume: Resume) -> bool:
        """Whether this names a row that there could be."""
        table = self._tables.schema.tables.get(resume.table)
        return table is not None and self._proposals.key_fault(table, resume.key) is None

    # ---- which request, which file, which history ---------------------------------

    def _recognise(
        self, user: str, exchange: Exchange, offers: Sequence[Offer], *, foreign: bool
    ) -> Duplicate | Superseded | None:
        """Refuse what is not the next request of its file (O6).

        A server that was restored from a backup has forgotten the file's newer requests.
        So an unknown token alone does not show a copy where the cursor is unknown as well.
        """
        client = self._state.clients.get(exchange.client_id)
        if client is not None:
            if client.user != user:
                raise ProtocolError(
                    f"client {exchange.client_id} belongs to another user than {user} (H9): "
                    "give each user's replica a file of its own"
                )
            known = client.recognise(exchange)
            if known == "duplicate":
                return self._answer(Duplicate)
            if known == "copy" and not (foreign and exchange.number > client.number):
                return self._superseded(exchange.client_id, offers)
        id = exchange.client_id
        own = [offer for offer in offers if split_action_id(offer.id)[0] == id]
        if any(self._fate(id, offer).seed not in (None, offer.seed) for offer in own):
            return self._superseded(id, offers)
        return None

    def _advance(self, user: str, exchange: Exchange) -> None:
        """Keep the number and token of a file's newest request; parts of others are of no use."""
        id, number, token = exchange.client_id, exchange.number, exchange.token
        client = self._state.clients.get(id)
        row = client._replace(number=number, token=token) if client else Client(user, number, token)
        self._state.undo.put(self._state.clients, id, row)
        self._state.undo.drop(self._state.parts, id)

    def _superseded(self, client: ClientId, offers: Sequence[Offer]) -> Superseded:
        return self._answer(Superseded, fates=[self._fate(client, offer) for offer in offers])

    def _fate(self, client: ClientId, offer: Offer) -> Fate:
        """What became of a run: of its id, or of one that it had in another copy of the file.

        Of another user's ids nothing is said (H9).
        """
        if not self._is_same_user(client, offer.id):
            return Fate(offer.id, None)
        state = self._state
        ids = [offer.id, *(id for id in offer.formerly if self._is_same_user(client, id))]
        if any(state.has_run(offer.seed, id) for id in ids):
            return Fate(offer.id, offer.seed)
        if seed := state.seed_of(offer.id):
            return Fate(offer.id, seed)
        return Fate(offer.id, None, any(map(state.was_pruned, ids)))

    def _is_same_user(self, client: ClientId, id: ActionId) -> bool:
        clients, other = self._state.clients, split_action_id(id)[0]
        return (
            client in clients and other in clients and clients[other].user == clients[client].user
        )

    def _ran_elsewhere(self, offer: Offer, fate: Fate) -> bool:
        """Whether another copy of the file brought this very run before (O6)."""
        if fate.seed == offer.seed:
            return self._state.seed_of(offer.id) != offer.seed
        return fate.pruned and not self._state.was_pruned(offer.id)

    def _is_foreign(self, request: SyncRequest) -> bool:
        """Whether the replica knows another history than the one above what was pruned (H11)."""
        question, state = request.question, self._state
        known = ((question.cursor, question.cursor_token), (request.seen, request.seen_token))
        return any(seq >= state.pruned and state.token_of(seq) != token for seq, token in known)

    # ---- uploads ------------------------------------------------------------------

    def _upload(self, viewer: Viewer, request: SyncRequest) -> SyncAnswer:
        client, question = request.exchange.client_id, request.question
        new = [sent for sent in request.actions if not self._is_retry(client, sent.record)]
        own = [sent.record for sent in new if sent.record.client_id == client]
        if any(self._is_stale(record) for record in own):
            return self._answer(Stale)
        if early := next((record for record in own if self._is_early(record)), None):
            return self._answer(Early, action_id=early.id)
        if self._gate.is_behind(viewer, client, question.cursor):
            self._gate.bounced(viewer, client, self._now_ms)
            page = self._downloads.page(viewer, question, request.events_max)
            return self._answer(Behind, download=page)
        retried = [
            correction
            for sent in request.actions
            if self._is_retry(client, sent.record)
            for correction in differences(
                viewer, self._state.actions[sent.record.id], sent, self._proposals
            )
        ]
        upload = Upload(client, viewer, new, [*retried, *request.corrections])
        mark = self._state.undo.mark()
        answer = self._store(upload, request)
        if not isinstance(answer, Ok):
            self._state.undo.back_to(mark)
            self._tables.back_to_begin()
        return answer

    def _store(self, upload: Upload, request: SyncRequest) -> SyncAnswer:
        """Stage an upload and, where nothing is in its way, number it."""
        state, question, before = self._state, request.question, self._state.seq
        held = self._gate.held_by_others(upload.client, self._now_ms)
        judgement = Judgement(upload, state, self._tables, self._membership, self._rights)
        if refused := judgement.decide():
            table, key = (refused.row.table, list(refused.row.key)) if refused.row else (None, None)
            return self._answer(
                refused.kind,
                action_id=refused.action_id,
                table=table,
                key=key,
                reason=refused.reason,
            )
        if disturbed := [h.lease.until_ms for h in held if self._gate.disturbs(h)]:
            return self._answer(Busy, retry_after_ms=max(disturbed) - self._now_ms)
        viewer = self._membership.viewer(upload.viewer.user)  # as of this commit (H7a)
        if self._downloads.needs_rebase(viewer, question):
            return self._answer(Rebase)
        state.number(self._settings.entropy(12).hex())
        for sent in upload.actions:
            for old in sent.formerly:
                state.rename(old, sent.record)
        stored = [state.actions[sent.record.id] for sent in request.actions]
        return self._answer(
            Ok,
            download=self._downloads.beside_upload(viewer, question, before),
            accepted=[action.seq for action in stored],
            moved={
                action.record.id: action.record.order_key
                for action, sent in zip(stored, request.actions, strict=True)
                if action.record.order_key != sent.record.order_key
            },
            corrected=judgement.corrected(),
        )

    def _is_retry(self, client: ClientId, record: ActionRecord) -> bool:
        return record.client_id == client and record.id in self._state.actions

    def _is_stale(self, record: ActionRecord) -> bool:
        """Below the server's floor, or accepted and pruned there (F4)."""
        floor = self._state.floor or FIRST
        return record.order_key <= floor or self._state.was_accepted(record.id)

    def _is_early(self, record: ActionRecord) -> bool:
        """Too far in the future, or further back than is allowed (O4)."""
        ahead_ms = timestamp_of(record.order_key).ms - self._now_ms
        backdate = self._settings.max_backdate_ms
        return ahead_ms > self._settings.max_clock_drift_ms or (
            backdate is not None and -ahead_ms > backdate
        )
