"""One exchange with the server: the order in which it is judged.

1. Whose is the client id, and is this the next request of its file? (H9, O6)
2. Does the replica's schema fit, and its cursor this server's history? (S11, H11, F3)
3. A mere question is answered, from one consistent state, after this transaction; one to which
   nothing is new, at a glance and before all this, by the same rules in SQL.
4. May the actions' order keys be stored at all? (F4, O4)
5. Does the replica know what its user can see? (H3)
6. Is every patch allowed, and the end state valid? (H1, H5, H6, in `upload`)
7. The counter is taken, and with it the right to be next (H2). What was judged is compared
   with what others committed meanwhile: is the replica behind now, has anything changed that
   the judgement rests on, does this disturb a lease? Then all is stored and one commit.

What is decided before the end stores nothing but the request's number and token. An
exception, as for a message that the protocol does not allow, leaves nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from synchrotron.core.canonical import decode
from synchrotron.core.clock import FIRST, OrderKey, timestamp_of
from synchrotron.core.ids import ActionId, Audience, ClientId, Entropy, Seq
from synchrotron.core.messages import (
    Answer,
    Behind,
    Busy,
    Corrected,
    Download,
    Duplicate,
    Early,
    Epoch,
    Exchange,
    Install,
    Offer,
    Ok,
    Question,
    Rebase,
    SentAction,
    SentCorrection,
    Staged,
    Stale,
    Superseded,
    SyncAnswer,
    SyncRequest,
    decode_request,
    encode,
    row_patch,
)
from synchrotron.core.patches import Patch, Target
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ProtocolError
from synchrotron.server.brought import Brought, audiences_of
from synchrotron.server.clients import Client
from synchrotron.server.database import Again, Connection, Query, fetch, fetch_all
from synchrotron.server.download import Downloads, Viewer
from synchrotron.server.fates import Fates, ids_of
from synchrotron.server.form import (
    audience_fault,
    offers_of,
    require_order,
    require_protocol,
    require_single,
)
from synchrotron.server.gate import Gate, disturbed_until
from synchrotron.server.history import History
from synchrotron.server.installed import Installed, read_installed
from synchrotron.server.live import Live
from synchrotron.server.parameters import plain_array
from synchrotron.server.parts import Parts, frame_of
from synchrotron.server.shadow import Shadow
from synchrotron.server.store import (
    Addition,
    After,
    Lease,
    Numbered,
    Standing,
    storing,
)
from synchrotron.server.touched import load_stored, touched_by
from synchrotron.server.upload import Judgement, Refused, Upload

A = TypeVar("A", bound=Answer)
PLACES_PER_TRANSACTION = 2**20
ALONE_AFTER_ATTEMPTS = 4


class Bounds(NamedTuple):
    """What an operator chooses."""

    max_clock_drift_ms: int = 60_000
    max_backdate_ms: int | None = None
    page_events: int | None = None
    page_bytes: int = 4_000_000
    """Of the values and arguments of a page's events; one event alone may have more."""


class Begun(NamedTuple):
    """What an exchange is judged by, as `synchrotron.begin_exchange` tells it."""

    now_ms: int
    owner: str
    number: int
    token: str
    """Those of the file's newest request before this one."""
    pruned: Seq
    floor: OrderKey | None
    cursor_token: str | None
    seen_token: str | None
    installed: int
    transaction: int
    known: list[list[Any]] | None
    """What is stored of the ids that the request names."""


class Entered(NamedTuple):
    """What an upload is judged by, as `synchrotron.enter_upload` tells it."""

    seen: Seq
    audiences: list[Audience]
    joined_floor: OrderKey | None
    behind: bool
    rights: Mapping[Audience, bool]
    """In which audiences the user may write, of those that the upload names."""
    taken: list[OrderKey] | None
    leases: list[Lease] | None
    installed: int
    policies_fit: bool
    targets: str | None
    """What is stored of the rows that the upload touches, as JSON."""


class Asked(NamedTuple):
    """The answer is a page: read it when this transaction is over."""

    kind: type[Ok] | type[Behind]


class ExchangeTransaction:
    """One exchange in one transaction, of one attempt."""

    def __init__(
        self,
        connection: Connection,
        installed: Installed,
        bounds: Bounds,
        entropy: Entropy,
        user: str,
        now_ms: int | None,
        *,
        alone: bool,
    ) -> None:
        self._connection = connection
        self._installed = installed
        self._bounds = bounds
        self._entropy = entropy
        self._user = user
        self._given_now_ms = now_ms
        self._alone = alone
        self._gate = Gate(connection)

    # ---- whose request it is ------------------------------------------------------

    async def begin(
        self,
        exchange: Exchange,
        cursor: Seq,
        seen: Seq,
        offers: Sequence[Offer],
        *,
        keep: bool = True,
    ) -> Fates:
        """Lock the client's row before anything else (O6); what became of the offers.

        With `keep` the request is kept as its file's newest, for the case that it is: whoever
        finds that it is not raises, and the transaction leaves nothing. Raises `ProtocolError`
        (H9).
        """
        number, token = (exchange.number, exchange.token) if keep else (None, None)
        [[row]] = await fetch_all(  # with the BEGIN of this transaction
            self._connection,
            [
                (
                    "SELECT * FROM synchrotron.begin_exchange(%s, %s, %s::bigint, %s::bigint,"
                    " %s::bigint, %s, %s::int8multirange, %s::text[])",
                    self._user,
                    exchange.client_id,
                    cursor,
                    seen,
                    number,
                    token,
                    *ids_of(exchange.client_id, offers),
                )
            ],
        )
        self.begun = begun = Begun(*row)
        self.now_ms = begun.now_ms if self._given_now_ms is None else self._given_now_ms
        if begun.installed != self._installed.version:
            raise NewlyInstalled
        if begun.owner != self._user:
            raise ProtocolError(
                f"client {exchange.client_id} belongs to another user than {self._user} (H9): "
                "give each user's replica a file of its own"
            )
        return Fates(self._user, exchange.client_id, begun.known or ())

    def answer(self, kind: type[A], **fields: Any) -> A:
        return kind(now_ms=self.now_ms, floor=self.begun.floor, **fields)

    def _recognise(
        self, exchange: Exchange, offers: Sequence[Offer], fates: Fates, *, foreign: bool
    ) -> Duplicate | Superseded | None:
        """Refuse what is not the next request of its file (O6).

        A server that was restored from a backup has forgotten the file's newer requests.
        So an unknown token alone does not show a copy where the cursor is unknown as well.
        """
        number = self.begun.number
        known = Client(self._user, number, self.begun.token).recognise(exchange)
        if known == "duplicate":
            return self.answer(Duplicate)
        if known == "copy" and not (foreign and exchange.number > number):
            return self._superseded(offers, fates)
        if fates.conflicts(offers):
            return self._superseded(offers, fates)
        return None

    def _superseded(self, offers: Sequence[Offer], fates: Fates) -> Superseded:
        return self.answer(Superseded, fates=[fates.of(offer) for offer in offers])

    def _is_foreign(self, request: SyncRequest) -> bool:
        """Whether the replica knows another history than the one above what was pruned (H11)."""
        question, begun = request.question, self.begun
        known = (
            (question.cursor, question.cursor_token, begun.cursor_token),
            (request.seen, request.seen_token, begun.seen_token),
        )
        return any(seq >= begun.pruned and token != stored for seq, token, stored in known)

    # ---- the two requests ---------------------------------------------------------

    async def sync(self, request: SyncRequest) -> SyncAnswer | Asked:
        require_protocol(request.protocol)
        if request.parts == 1:
            return await self._judge(request)
        kept = await self._keep_part(request)
        return await self._judge(kept) if isinstance(kept, SyncRequest) else kept

    async def _keep_part(
        self, request: SyncRequest
    ) -> SyncRequest | Staged | Duplicate | Superseded:
        """Keep one part of an upload, which advances nothing; give the whole, once it is."""
        exchange, offers = request.exchange, offers_of(request)
        cursor, seen = request.question.cursor, request.seen
        fates = await self.begin(exchange, cursor, seen, offers, keep=False)
        foreign = self._is_foreign(request)
        if refusal := self._recognise(exchange, offers, fates, foreign=foreign):
            raise NothingKept(refusal)
        frame, body = encode(frame_of(request)), encode(request)
        rows = await fetch(
            self._connection,
            "SELECT * FROM synchrotron.stage_part(%s, %s, %s, %s, %s, %s)",
            exchange.client_id, exchange.token, request.part, frame, body, self.now_ms,
        )  # fmt: skip
        there = {part for part, _ in rows}
        if other := next((part for part, f in rows if bytes(f) != frame), None):
            raise ProtocolError(
                f"part {request.part} of an upload differs from part {other} in more than its "
                "actions and corrections"
            )
        if missing := [part for part in range(1, request.parts + 1) if part not in there]:
            return self.answer(Staged, missing=missing)
        bodies = await fetch(
            self._connection, "SELECT synchrotron.parts_of(%s)", exchange.client_id
        )
        requests = [decode_request(bytes(body)) for (body,) in bodies]
        return Parts({part.part: part for part in requests}).whole()

    async def _judge(self, request: SyncRequest) -> SyncAnswer | Asked:
        exchange, question = request.exchange, request.question
        require_order(request.actions)
        require_single(request.corrections)
        offers = offers_of(request)
        fates = await self.begin(exchange, question.cursor, request.seen, offers)
        foreign = self._is_foreign(request)
        if refusal := self._recognise(exchange, offers, fates, foreign=foreign):
            raise NothingKept(refusal)
        if any(map(fates.ran_elsewhere, offers)):
            return self._superseded(offers, fates)
        if request.schema > self._installed.migrations:
            return self.answer(Install, schema=self._installed.migrations)
        if foreign:
            return self.answer(Epoch)
        if question.cursor < self.begun.pruned:
            return self.answer(Rebase)
        if not request.actions and not request.corrections:
            return Asked(Ok)
        return await self._decide(request, fates)

    async def _decide(self, request: SyncRequest, fates: Fates) -> SyncAnswer | Asked:
        """Judge and store an upload. Of one that is not stored only what the gate counts stays."""
        client = request.exchange.client_id
        answer = await self._upload(request, fates)
        if not isinstance(answer, Ok):
            await self._connection.execute(b"ROLLBACK TO SAVEPOINT upload")
            if isinstance(answer, Asked):
                await self._gate.bounced(self._viewer, client, self.now_ms)
            elif not isinstance(answer, Busy):
                await self._gate.decided(client)
        return answer

    async def recognise_snapshot(
        self, exchange: Exchange, offers: Sequence[Offer], schema: int
    ) -> Duplicate | Superseded | Install | tuple[list[ActionId], list[ActionId]]:
        """The number of a snapshot is stored before its rows are read; which offers are known.

        These are the runs that the server has, and the ids of which it cannot tell.
        """
        fates = await self.begin(exchange, Seq(0), Seq(0), offers)
        if refusal := self._recognise(exchange, offers, fates, foreign=False):
            raise NothingKept(refusal)
        if schema > self._installed.migrations:
            return self.answer(Install, schema=self._installed.migrations)
        return fates.in_snapshot(offers)

    # ---- uploads ------------------------------------------------------------------

    async def _upload(self, request: SyncRequest, fates: Fates) -> SyncAnswer | Asked:
        client = request.exchange.client_id

        def is_retry(record: ActionRecord) -> bool:
            return record.client_id == client and fates.known(record.id).seed is not None

        new, old = request.actions, []
        if fates.any:
            old = [sent for sent in request.actions if is_retry(sent.record)]
            new = [sent for sent in request.actions if not is_retry(sent.record)]
        brought = Brought(self._installed.form, new, request.corrections)
        entered = await self._enter(request, brought)
        if entered.installed != self._installed.version:
            raise NewlyInstalled  # while this one waited for its turn
        rows = decode(entered.targets) if entered.targets else []
        viewer, needs_rebase = viewer_of(
            self._user, request.question, entered.audiences, entered.joined_floor
        )
        self._viewer, self._seen = viewer, entered.seen
        if needs_rebase:
            return self.answer(Rebase)
        if refusal := self._refused_by_clock(client, new, fates):
            return refusal
        if entered.behind:
            return Asked(Behind)
        if differences := await self._differences(viewer, old):
            brought = Brought(self._installed.form, new, [*differences, *request.corrections])
            rows = await fetch(
                self._connection, "SELECT * FROM synchrotron.load_targets(%s::json)", brought.keys
            )
        if not entered.policies_fit:
            await fetch(self._connection, "SELECT synchrotron.copy_policies()")
            # What the new ones read, rights depend on from here on.
            self._installed = await read_installed(self._connection)
            await self._connection.execute(b"SAVEPOINT judgement")  # which this is a part of
        return await self._store(request, entered, brought, rows, fates)

    async def _enter(self, request: SyncRequest, brought: Brought) -> Entered:
        """What an upload is judged by; it can be judged again from the savepoint `judgement`.

        Uploads that write in one audience come one after another from here on.
        """
        question = request.question
        patched = audiences_of(
            [sent.patches for sent in request.actions] + [[c.patch] for c in request.corrections]
        )
        wanted = [audience for audience in patched if audience_fault(audience) is None]
        known = frozenset(patched)
        others = [a for a in brought.declared if a not in known and audience_fault(a) is None]

        def queries() -> Iterator[Query]:
            yield ("SAVEPOINT upload",)
            yield (
                "SELECT * FROM synchrotron.enter_upload(%s, %s, %s, %s::bigint, %s::text[],"
                " %s::text[], %s::text[], %s::text[], %s::bigint, %s::json)",
                self._alone,
                self._user,
                request.exchange.client_id,
                question.cursor,
                question.audiences,
                wanted,
                others,
                plain_array(sent.record.order_key for sent in brought.actions),
                self.now_ms,
                brought.keys,
            )
            yield ("SAVEPOINT judgement",)
            brought.read()  # while PostgreSQL looks

        _, [row], _ = await fetch_all(self._connection, queries())
        seen, audiences, joined_floor, behind, writable, *rest = row
        rights = dict.fromkeys([*wanted, *others], False) | dict.fromkeys(writable, True)
        return Entered(seen, audiences, joined_floor, behind, rights, *rest)

    def _refused_by_clock(
        self, client: ClientId, new: Sequence[SentAction], fates: Fates
    ) -> Stale | Early | None:
        """Actions below the server's floor, or with a time that it does not take (F4, O4)."""
        own = [sent.record for sent in new if sent.record.client_id == client]
        # They are in order: what lies between the first and the last is as late as they are.
        ends = own[:1] + own[-1:]
        if not fates.any and not any(self._is_stale(r, fates) or self._is_early(r) for r in ends):
            return None
        if any(self._is_stale(record, fates) for record in own):
            return self.answer(Stale)
        early = next((record for record in own if self._is_early(record)), None)
        return self.answer(Early, action_id=early.id) if early else None

    async def _store(
        self,
        request: SyncRequest,
        entered: Entered,
        brought: Brought,
        rows: list[Any],
        fates: Fates,
    ) -> SyncAnswer | Asked:
        """Judge an upload and, where nothing is in its way, number and store it.

        Raises `Again` where the judgement is stale by then: it rests on the rows of the audiences
        that it touches, on rights, and on the server's floor.
        """
        client, user = request.exchange.client_id, self._user
        connection, corrections = self._connection, brought.corrections
        stored = await load_stored(connection, [c.action_id for c in corrections])
        touched = await touched_by(connection, brought, rows)
        history = History(touched.history)
        own_names = [
            _with_own_names(sent, user, fates) if fates.any else sent for sent in brought.actions
        ]
        question = request.question
        standing = Standing(
            question.cursor,
            question.audiences,
            entered.seen,
            entered.audiences,
            self.begun.floor,
            self.now_ms,
        )
        addition: Addition

        def storing_all_but(denied: frozenset[int]) -> Query:
            nonlocal addition
            corrected = [
                (
                    judgement.place(i),
                    brought.proposed[id(correction.patch)].patch,
                    stored[correction.action_id].user,
                )
                for i, correction in enumerate(corrections)
                if i not in denied
            ]
            addition = Addition(user, client, brought, own_names, corrected, history)
            token = self._entropy(12).hex()
            return storing(addition, standing, token, changes_rights=judgement.changes_rights)

        judgement = Judgement(
            connection,
            self._installed,
            Upload(
                user,
                client,
                frozenset(entered.audiences),
                brought,
                stored,
                frozenset(entered.taken or ()),
            ),
            history,
            Live(connection, self._installed, touched.homes),
            Shadow(connection, self._installed, self._first_place()),
            entered.rights,
            storing_all_but,
        )
        decided = await judgement.decide()
        if isinstance(decided, Refused):
            return self._refusal(decided)
        after = After(*decided)
        if after.is_stale:
            raise Again
        if after.behind:
            return Asked(Behind)
        if until_ms := disturbed_until(entered.leases, after.leases, addition):
            return self.answer(Busy, retry_after_ms=until_ms - self.now_ms)
        numbered = addition.rows.numbered(after.before)
        download = await self._beside(question, after, numbered)
        if download is None:
            return self.answer(Rebase)
        seqs, moved = await self._accepted(request, numbered)
        return self.answer(
            Ok,
            download=download,
            accepted=seqs,
            moved=moved,
            corrected=list(_corrected(corrections, judgement, numbered)),
        )

    def _refusal(self, refused: Refused) -> SyncAnswer:
        row = refused.row
        return self.answer(
            refused.kind,
            action_id=refused.action_id,
            table=row.table if row else None,
            key=list(row.key) if row else None,
            reason=refused.reason,
        )

    async def _beside(
        self, question: Question, after: After, numbered: Numbered
    ) -> Download | None:
        """What is new besides the upload itself; None where that needs a rebase (H7a, F6)."""
        assert after.audiences is not None
        viewer, needs_rebase = viewer_of(self._user, question, after.audiences, after.joined_floor)
        if needs_rebase:
            return None
        token = after.token or ""
        if after.has_news or not set(viewer.audiences) <= set(question.audiences):
            downloads = Downloads(self._connection, self._installed, viewer)
            return await downloads.beside_upload(question, after.before, numbered.last, token)
        return Download(
            horizon=numbered.last,
            token=token,
            audiences=sorted(viewer.audiences),
            newest=numbered.last,
            newest_token=token,
        )

    def _first_place(self) -> int:
        return self.begun.transaction % 2**40 * PLACES_PER_TRANSACTION

    async def _accepted(
        self, request: SyncRequest, numbered: Numbered
    ) -> tuple[list[Seq], dict[ActionId, OrderKey]]:
        """The seqs of all that was sent, and where the retries are that are stored elsewhere."""
        seqs, moved = numbered.actions, {}
        old = {s.record.id: s.record.order_key for s in request.actions if s.record.id not in seqs}
        if old:
            rows = await fetch(
                self._connection, "SELECT * FROM synchrotron.load_actions(%s::text[])", list(old)
            )
            seqs = seqs | {id: seq for id, _, seq, *_ in rows}
            moved = {id: order_key for id, order_key, *_ in rows if order_key != old[id]}
        return [seqs[sent.record.id] for sent in request.actions], moved

    async def _differences(
        self, viewer: Viewer, retried: Sequence[SentAction]
    ) -> list[SentCorrection]:
        """What a retry changes in what it stored before, as corrections (H4).

        Only rows that the user can see count: of others the replica had no patch to send.
        """
        if not retried:
            return []
        ids = [sent.record.id for sent in retried]
        rows = await fetch(
            self._connection, "SELECT * FROM synchrotron.load_actions(%s::text[])", ids
        )
        keys = {id: key for id, key, *_ in rows}
        held: dict[OrderKey, dict[Target, Patch | None]] = {}
        for table, key, audience, order_key, op, columns in await fetch(
            self._connection,
            "SELECT * FROM synchrotron.patches_of_actions(%s::text[])",
            list(keys.values()),
        ):
            if audience in viewer.audiences:
                target = Target(table, tuple(decode(key)), audience)
                patch = None if op is None else Patch(op, columns)
                held.setdefault(order_key, {})[target] = patch
        return [
            correction
            for sent in retried
            for correction in self._differing(viewer, sent, held.get(keys[sent.record.id], {}))
        ]

    def _differing(
        self, viewer: Viewer, sent: SentAction, held: dict[Target, Patch | None]
    ) -> Iterator[SentCorrection]:
        id = sent.record.id
        kept: set[Target] = set()
        for patch in sent.patches:
            if self._installed.form.fault(patch):
                yield SentCorrection(id, patch)  # to be denied, for its form
            elif patch.audience in viewer.audiences:
                kept.add(patch.target)
                if held.get(patch.target) != patch.patch:
                    yield SentCorrection(id, patch)
        for target in sorted(held, key=repr):
            if target not in kept and held[target] is not None:
                yield SentCorrection(id, row_patch(target, None))

    def _is_stale(self, record: ActionRecord, fates: Fates) -> bool:
        """Below the server's floor, or accepted and pruned there (F4)."""
        floor = self.begun.floor or FIRST
        return record.order_key <= floor or fates.known(record.id).accepted

    def _is_early(self, record: ActionRecord) -> bool:
        """Too far in the future, or further back than is allowed (O4)."""
        ahead_ms = timestamp_of(record.order_key).ms - self.now_ms
        backdate = self._bounds.max_backdate_ms
        return ahead_ms > self._bounds.max_clock_drift_ms or (
            backdate is not None and -ahead_ms > backdate
        )


class NewlyInstalled(Exception):
    """The application was installed anew: read it again, and begin anew."""


class NothingKept(Exception):
    """The answer to a request that stores nothing, not even its number."""

    def __init__(self, answer: Duplicate | Superseded) -> None:
        self.answer = answer


def at_a_glance(user: str, version: int, request: SyncRequest) -> Query | None:
    """What answers a question to which nothing is new; None for what is no such question.

    It gives the row for `nothing_new`, or none where the request has to be judged.
    """
    if request.actions or request.corrections or request.parts > 1:
        return None
    exchange, question = request.exchange, request.question
    return (
        "SELECT * FROM synchrotron.answer_at_a_glance(%s, %s, %s::bigint, %s, %s::text[],"
        " %s::bigint, %s::bigint, %s, %s::bigint, %s, %s::text[])",
        user,
        exchange.client_id,
        exchange.number,
        exchange.token,
        [exchange.token, *exchange.earlier],
        version,
        question.cursor,
        question.cursor_token,
        request.seen,
        request.seen_token,
        question.audiences,
    )


def nothing_new(
    now_ms: int, seq: Seq, token: str | None, floor: OrderKey | None, audiences: list[Audience]
) -> Ok:
    """The answer at a glance, from a row of `at_a_glance`."""
    token = token or ""
    download = Download(
        horizon=seq, token=token, audiences=sorted(audiences), newest=seq, newest_token=token
    )
    return Ok(now_ms=now_ms, floor=floor, download=download)


def standing_of(user: str, question: Question) -> Query:
    """What a user sees now, and the newest pruned action of what they joined."""
    return "SELECT * FROM synchrotron.standing_of(%s, %s::text[])", user, question.audiences


def viewer_of(
    user: str, question: Question, audiences: list[Audience], joined_floor: OrderKey | None
) -> tuple[Viewer, bool]:
    """A user with what they see, and whether they joined an audience whose history is gone (F6).

    That is where something *of this audience* was pruned above the replica's floor: a
    project that someone has just created is no reason to rebase.
    """
    needs_rebase = joined_floor is not None and joined_floor > (question.floor or FIRST)
    return Viewer(user, audiences), needs_rebase


def _with_own_names(sent: SentAction, user: str, fates: Fates) -> SentAction:
    """Without former ids that are another user's (H9)."""
    own = [id for id in sent.formerly if fates.known(id).owner in (None, user)]
    return sent if own == sent.formerly else SentAction(sent.record, sent.patches, own)


def _corrected(
    corrections: Sequence[SentCorrection], judgement: Judgement, numbered: Numbered
) -> Iterator[Corrected]:
    for i, c in enumerate(corrections):
        seq = None if i in judgement.denied else numbered.corrections[judgement.place(i)]
        yield Corrected(c.action_id, c.patch.table, c.patch.key, c.patch.audience, seq)
