"""One side of an exchange: what a replica asks, and what it makes of the answer.

A request is numbered and carries a fresh token, both on the disk before it is sent (O6,
O7). An answer counts only if the replica is still where it asked from: its download part
only with the same cursor, floor and audiences, what it says of the upload only for what
was sent. Everything that an answer brings is one transaction (S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from synchrotron.core.clock import FIRST, OrderKey, timestamp_of
from synchrotron.core.ids import (
    ActionId,
    Audience,
    ClientId,
    Entropy,
    Seq,
    action_id,
    new_client_id,
    number_of,
)
from synchrotron.core.messages import (
    Behind,
    Busy,
    Denied,
    Download,
    Duplicate,
    Early,
    Epoch,
    Event,
    Exchange,
    Install,
    Invalid,
    KnownPatch,
    Limit,
    Offer,
    Ok,
    Question,
    Rebase,
    Refusal,
    Resume,
    SentAction,
    SentCorrection,
    SnapshotChunk,
    SnapshotRequest,
    Staged,
    Stale,
    Superseded,
    SyncAnswer,
    SyncRequest,
    encode,
    row_patch,
)
from synchrotron.core.patches import Known, Patch, Target
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ProtocolError
from synchrotron.replica.events import SyncReport
from synchrotron.replica.floors import audiences_of, restamp
from synchrotron.replica.outcomes import RESTORED, Outcome, SetAside
from synchrotron.replica.revision import Revision
from synchrotron.replica.runner import Runner
from synchrotron.store.effects import completed, fingerprint
from synchrotron.store.log import AcceptedRun, Entry
from synchrotron.store.state import State
from synchrotron.store.store import Store

BUSY_MS_MAX = 500
"""A lease ends with its upload, mostly long before its time: worth asking now and then."""
SKEW_MS_MAX = 1_000
"""A clock further off than this counts as wrong where the server refuses its keys."""
MANY_RUNS = 100
"""Of so many the flush to the disk takes longer than beginning it early does."""
PART_BYTES = 3_000_000
"""A larger upload goes in parts: a lost one does not cost the others, and memory stays bounded."""
PART_ITEMS = 8_000
"""So does one of more actions and corrections; a server takes 10,000 in one request."""


class PartSize(NamedTuple):
    """What a part of an upload holds at most, where it is more than a single item."""

    bytes: int = PART_BYTES
    items: int = PART_ITEMS

    def below(self, part: SyncRequest, limit: str) -> PartSize:
        """Half of a part that was more than the server, or a proxy before it, takes."""
        if limit == "actions_max":
            return self._replace(items=max(min(self.items, items_of(part)) // 2, 1))
        return self._replace(bytes=max(min(self.bytes, len(encode(part))) // 2, 1))


LARGEST = PartSize()


class Next(NamedTuple):
    """What follows from an answer."""

    again: bool = False
    """There is more to exchange."""
    rebase: bool = False
    new_epoch: bool = False
    wait_ms: int | None = None
    """Ask again after this time."""
    upload: bool = True
    """False: the next request only asks, to learn the fate of what was sent before."""
    smaller: bool = False
    """The next upload goes in smaller parts."""
    blocked: str | None = None
    """Nothing more can be done until someone acts."""


class Taken(NamedTuple):
    """What taking an answer in did."""

    next: Next
    report: SyncReport
    outcomes: list[Outcome]
    tables: set[str]
    left_out: list[tuple[ActionRecord, Target]]


# ---- asking -----------------------------------------------------------------------


def question_of(state: State) -> Question:
    return Question(state.cursor, state.cursor_token, state.floor, sorted(state.audiences))


def ask(store: Store, state: State, entropy: Entropy, *, upload: bool) -> SyncRequest:
    """Make a request. In a durable transaction, which stores the state; send it only after."""
    exchange = _number(state, entropy)
    if upload and store.log.has_pending(MANY_RUNS):
        store.database.flush_soon()
    pending = store.log.to_send() if upload else []
    if pending:
        store.log.mark_sent(exchange.number)
    unsent = store.log.unsent() if upload else []
    renamed = SetAside(store.writer)
    some_renamed = renamed.has_renamed()
    return SyncRequest(
        exchange,
        question_of(state),
        [
            SentAction(record, patches, renamed.former_ids(record.id) if some_renamed else [])
            for record, patches in pending
        ],
        [
            SentCorrection(entry.record.id, row_patch(target, effect.applied))
            for entry in unsent
            for target, effect in entry.effects.items()
            if effect.unsent
        ],
        state.migrations,
        seen=state.seen,
        seen_token=state.seen_token,
    )


def ask_ahead(state: State, entropy: Entropy, download: Download) -> SyncRequest:
    """Ask for the page after one that is not taken in yet. In a durable transaction.

    The answer counts only if the replica is by then where that page leads to.
    """
    exchange = _number(state, entropy)
    seen = max((state.seen, state.seen_token), (download.newest, download.newest_token))
    return SyncRequest(
        exchange,
        Question(download.horizon, download.token, state.floor, sorted(download.audiences)),
        schema=state.migrations,
        seen=seen[0],
        seen_token=seen[1],
    )


def items_of(request: SyncRequest) -> int:
    """How many actions and corrections a request uploads."""
    return len(request.actions) + len(request.corrections)


def cut(request: SyncRequest, size_max: PartSize = LARGEST) -> list[SyncRequest]:
    """A request as its parts, each of about this size: a single one, if it is not large."""
    part_bytes, part_items = size_max
    items = items_of(request)
    if items == 0 or (items <= part_items and len(encode(request)) <= part_bytes):
        return [request]  # which nearly all are: to measure each action took five times as long
    parts: list[tuple[list[SentAction], list[SentCorrection]]] = [([], [])]
    size = count = 0

    def is_full(length: int) -> bool:
        nonlocal size, count
        full = count == part_items or (size > 0 and size + length > part_bytes)
        size, count = (length, 1) if full else (size + length, count + 1)
        return full

    for action in request.actions:
        if is_full(len(encode(action))):
            parts.append(([], []))
        parts[-1][0].append(action)
    for correction in request.corrections:
        if is_full(len(encode(correction))):
            parts.append(([], []))
        parts[-1][1].append(correction)
    return [
        msgspec.structs.replace(
            request, actions=actions, corrections=corrections, part=part, parts=len(parts)
        )
        for part, (actions, corrections) in enumerate(parts, 1)
    ]


def ask_snapshot(
    store: Store, state: State, entropy: Entropy, *, new_epoch: bool, resume: Resume | None
) -> SnapshotRequest:
    """Ask for a snapshot, offering the ids whose fate is open. In a durable transaction."""
    exchange = _number(state, entropy)
    set_aside = SetAside(store.writer)
    entries = list(store.log.own()) if new_epoch else store.log.pending()
    records = [entry.record for entry in entries]
    records += [record for record, _ in set_aside.open()]
    records += set_aside.remembered() if new_epoch else []
    return SnapshotRequest(
        exchange,
        [
            Offer(record.id, record.seed, set_aside.former_ids(record.id))
            for record in {record.id: record for record in records}.values()
        ],
        state.migrations,
        resume=resume,
    )


def _number(state: State, entropy: Entropy) -> Exchange:
    earlier = list(state.tokens)
    state.exchange += 1
    token = new_client_id(entropy)
    state.tokens = [*earlier, token]
    return Exchange(state.client_id, state.exchange, token, earlier)


def is_answer_to(state: State, exchange: Exchange) -> bool:
    """Whether an answer is still of use: none to a later request was taken in."""
    return exchange.client_id == state.client_id and exchange.token in state.tokens


def settle_tokens(state: State, exchange: Exchange, answer: SyncAnswer | SnapshotChunk) -> None:
    """An answer was taken in: older requests need not be proven any more (O6).

    Unless it may come from before the server looked whose request it is, as limits do: then
    it knows none but an older token of this file.
    """
    if isinstance(answer, Busy | Limit):
        return
    state.tokens = state.tokens[state.tokens.index(exchange.token) :]


# ---- the clocks (O4) --------------------------------------------------------------


def skew(asked_ms: int, server_ms: int, taken_ms: int) -> int:
    """How far the machine's clock is behind the server's, as far as an exchange can tell.

    The server looked at its clock between asking and taking in: what lies between them is
    the time that messages travelled.
    """
    return server_ms - min(max(server_ms, asked_ms), max(taken_ms, asked_ms))


def is_mended(skew_ms: int, offset_ms: int) -> bool:
    """Whether a clock that was corrected by this offset is right without it."""
    return abs(skew_ms) <= SKEW_MS_MAX < abs(skew_ms - offset_ms)


# ---- taking the answer in ---------------------------------------------------------


class Taking:
    """One answer, taken in within the caller's transaction."""

    def __init__(
        self, store: Store, runner: Runner, state: State, now_ms: int, entropy: Entropy
    ) -> None:
        self.store = store
        self.state = state
        self.now_ms = now_ms
        self.entropy = entropy
        self.report = SyncReport(rounds=1)
        self.revision = Revision(store, runner, state)
        self._is_missing_rows = False

    def take(self, request: SyncRequest, answer: SyncAnswer) -> Taken:
        state = self.state
        if not is_answer_to(state, request.exchange):
            return Taken(Next(again=True), SyncReport(), [], set(), [])
        settle_tokens(state, request.exchange, answer)
        state.server_floor = answer.floor or state.server_floor
        next = self._dispatch(request, answer)
        revised = self.revision.carry_out()
        self.report.replayed += revised.replayed
        self.report.count(outcome.state for outcome in revised.outcomes)
        self.store.write_state(state)
        if not next.blocked and next.wait_ms is None:
            next = next._replace(again=next.again or self.store.log.has_something_to_send())
        return Taken(next, self.report, revised.outcomes, revised.tables, revised.left_out)

    def _dispatch(self, request: SyncRequest, answer: SyncAnswer) -> Next:
        match answer:
            case Ok():
                return self._stored(request, answer)
            case Behind():
                self._nothing_stored(request)
                return self._download(request, answer.download)
            case Busy():
                self._nothing_stored(request)
                return Next(again=True, wait_ms=min(answer.retry_after_ms, BUSY_MS_MAX))
            case Denied() | Invalid():
                self._nothing_stored(request)
                return self._refused(answer)
            case Early():
                self._nothing_stored(request)
                return self._early(answer)
            case Stale() | Rebase():
                self._nothing_stored(request)
                return Next(again=True, rebase=True)
            case Epoch():
                self._nothing_stored(request)
                return Next(again=True, rebase=True, new_epoch=True)
            case Duplicate() | Staged():
                return Next(again=True)
            case Superseded():
                if self.state.tokens[-1] != request.exchange.token:
                    # A later request of this file may have been faster: that one will tell.
                    return Next(again=True)
                supersede(self.revision, answer, self.entropy)
                return Next(again=True)
            case Install():
                self._nothing_stored(request)
                return Next(blocked=refusal_text(answer, self.state))
            case Limit():
                self._nothing_stored(request)
                return self._too_large(request, answer)

    def _nothing_stored(self, request: SyncRequest) -> None:
        self.store.log.decided(request.exchange.number, earlier=False)

    # ---- the upload was stored ------------------------------------------------------

    def _stored(self, request: SyncRequest, answer: Ok) -> Next:
        """The answer means exactly what was sent, not what is applied by now."""
        present = frozenset(answer.download.audiences)
        if len(answer.accepted) != len(request.actions):
            raise ProtocolError(
                f"the server tells of {len(answer.accepted)} actions, and was sent "
                f"{len(request.actions)}"
            )
        done = self._accept_runs(request.actions, answer, present)
        accepted = [
            (action, seq)
            for action, seq in zip(request.actions, answer.accepted, strict=True)
            if action.record.id not in done
        ]
        sent = {action.record.id: _patches(action) for action, _ in accepted}
        entries: dict[ActionId, Entry] = {e.record.id: e for e in self._corrected(request)}
        # A retry's patches that differ from the stored ones became corrections (H4).
        differing = {(c.action_id, c.target) for c in answer.corrected}
        for action, seq in accepted:
            record, id = action.record, action.record.id
            stored_record = record.moved(answer.moved.get(id, record.order_key))
            entry = self.revision.find(record) or self._brought_back(stored_record, seq)
            if entry is not None:
                entries[id] = entry
                stored = {t: p for t, p in sent[id].items() if (id, t) not in differing}
                self._accept(entry, seq, stored, present)
                if stored_record.order_key != entry.key:
                    self.revision.move(entry, stored_record.order_key)
        for correction in request.corrections:
            sent.setdefault(correction.action_id, {})[correction.patch.target] = (
                correction.patch.patch
            )
        denied = []
        for corrected in answer.corrected:
            entry, target = entries.get(corrected.action_id), corrected.target
            if entry is None:
                continue
            # What a retry did not send any more is a removal that the server made of it (H4).
            patch = sent[corrected.action_id].get(target)
            if corrected.seq is None:
                denied.append((entry, target, patch))
            else:
                self._correct(entry, target, patch, corrected.seq, present)
        # Founded audiences count from this commit on (H7a), and what is known of a denied
        # row may come with the download.
        next = self._download(request, answer.download)
        for entry, target, patch in denied:
            self._deny(entry, target, patch)
        return next._replace(again=True, rebase=True) if self._is_missing_rows else next

    def _accept_runs(
        self,
        actions: Sequence[SentAction],
        answer: Ok,
        present: frozenset[Audience],
    ) -> set[ActionId]:
        """Mark what was sent just as it ran, and stored so: most of it, without reading it.

        What is left, the server took in another form or place, or it was replayed meanwhile.
        """
        others = answer.moved.keys() | {correction.action_id for correction in answer.corrected}
        is_seen = {patch.audience for sent in actions for patch in sent.patches} <= present
        plain: list[AcceptedRun] = [
            (number_of(sent.record.id), seq, sent.record)
            for sent, seq in zip(actions, answer.accepted, strict=True)
            if sent.record.id not in others
            and (is_seen or all(patch.audience in present for patch in sent.patches))
        ]
        done = self.revision.accept_runs(plain)
        self.report.uploaded += len(done)
        return done

    def _brought_back(self, record: ActionRecord, seq: Seq) -> Entry | None:
        """An action that was set aside since it was sent: another request was refused for it."""
        set_aside = self.revision.set_aside
        kept = set_aside.get(record.id, None)
        if kept is None or kept[1].state not in ("parked", "discarded"):
            return None
        self.report.uploaded += 1
        if record.order_key <= (self.state.floor or FIRST):
            # Given up, and pruned past: its rows belong below the floor (F2).
            self.revision.tell(record, Outcome(id=record.id, state="accepted", seq=seq))
            self._is_missing_rows = True
            return None
        return self.revision.bring_back(record, seq)

    def _corrected(self, request: SyncRequest) -> list[Entry]:
        return self.revision.with_corrections() if request.corrections else []

    def _accept(
        self,
        entry: Entry,
        seq: Seq,
        patches: dict[Target, Patch | None],
        present: frozenset[Audience],
    ) -> None:
        was_pending = entry.pending
        entry.seq, entry.sent_in = seq, None
        for target, patch in patches.items():
            if target.audience not in present:
                self.revision.touch(entry)  # left meanwhile: its rows go
                continue
            effect = entry.effect(target)
            effect.accepted = fingerprint(patch)
            if effect.known is None or effect.known.seq < seq:
                effect.known = Known(patch, seq, seq)
        if was_pending:
            self.report.uploaded += 1
            # What was replayed since sending is a correction by now. Of an audience that was
            # left, by this very action as like as not, it stays what it was.
            for effect in entry.effects.values():
                if effect.audience not in present:
                    continue
                effect.accepted = effect.accepted or b""
                known = effect.known.patch if effect.known else None
                effect.unsent = effect.applied != known
        self.revision.keep(entry)

    def _correct(
        self,
        entry: Entry,
        target: Target,
        patch: Patch | None,
        seq: Seq,
        present: frozenset[Audience],
    ) -> None:
        self.report.corrected += 1
        effect = entry.effect(target)
        if effect.unsent and effect.applied == patch:
            effect.unsent = False
        if target.audience in present and (effect.known is None or effect.known.seq < seq):
            effect.known = Known(patch, seq, seq)
        self.revision.keep(entry)

    def _deny(self, entry: Entry, target: Target, patch: Patch | None) -> None:
        """A correction that the server denied is dropped, and what is known stands (S5)."""
        effect = entry.effect(target)
        if effect.unsent and effect.applied == patch:
            effect.unsent = False
        effect.denied = True
        self.revision.touch(entry)

    # ---- refusals -------------------------------------------------------------------

    def _refused(self, answer: Refusal) -> Next:
        reason = "denied" if isinstance(answer, Denied) else "invalid"
        where = f"{answer.table} {', '.join(map(str, answer.key or ()))}: " if answer.table else ""
        for entry in self.revision.pending():
            if entry.record.id == answer.action_id:
                self.revision.park(entry, reason, where + answer.reason)  # type: ignore[arg-type]
        return Next(again=True)

    def _too_large(self, part: SyncRequest, answer: Limit) -> Next:
        """A part was more than the server takes at once: try smaller ones.

        An action that is too large by itself is parked, so that the rest goes on.
        """
        if answer.name != "parts_max" and items_of(part) > 1:
            return Next(again=True, smaller=True)
        if answer.name == "parts_max" or not _is_most(part):
            return Next(blocked=refusal_text(answer, self.state))
        for entry in self.revision.pending():
            if entry.record.id == part.actions[0].record.id:
                self.revision.park(
                    entry,
                    "invalid",
                    f"by itself it exceeds the server's limit {answer.name!r}: have that raised "
                    "and retry it, or discard it and do the same in smaller steps",
                )
        return Next(again=True)

    def _early(self, answer: Early) -> Next:
        """Order keys that the server's clock refuses (O4)."""
        state = self.state
        skew = answer.now_ms - self.now_ms
        pending = self.revision.pending()
        latest = max(self.store.log.last_accepted_key(), state.floor or FIRST)
        wrong = abs(skew) > SKEW_MS_MAX
        if not wrong and not any(_was_wrong(e.key, latest, answer.now_ms) for e in pending):
            # Our clock is right; others' keys run ahead, and ours follow them.
            return Next(wait_ms=SKEW_MS_MAX)
        if any(entry.sent_in is not None for entry in pending):
            return Next(again=True, upload=False)
        state.clock = latest
        if wrong:
            state.clock_offset_ms += skew
        restamp(self.revision, pending, answer.now_ms, timestamp_of(latest))
        return Next(again=True)

    # ---- the download ---------------------------------------------------------------

    def _download(self, request: SyncRequest, download: Download) -> Next:
        state = self.state
        if download.newest > state.seen:
            state.seen, state.seen_token = download.newest, download.newest_token
        if request.question != question_of(state):
            return Next(again=True)
        present = frozenset(download.audiences)
        left, state.audiences = state.audiences - present, present
        if left:
            self._leave(left)
        for row in download.rows:
            table = self.store.schema.tables.get(row.table)
            state.left_out |= table is None or not table.has_columns(row.values or {})
            if table is not None:
                image = None if row.values is None else table.to_image(row.values)
                self.revision.put_below(row.target, image)
        state.floor_seq = max(state.floor_seq, download.below)
        self.revision.expect([event.record for event in download.events])
        for event in download.events:
            self._event(event)
        state.cursor, state.cursor_token = download.horizon, download.token
        if not download.more:
            self._all_decided(request)
        # An upload before the last page would only be behind again.
        return Next(again=download.more, upload=not download.more)

    def _event(self, event: Event) -> None:
        revision, record = self.revision, event.record
        entry = revision.find(record)
        if entry is None:
            if revision.is_set_aside(record):  # it was accepted after all
                entry = revision.bring_back(record, event.seq)
            else:
                entry = revision.add(record, event.seq)
                self.report.received += 1
        elif entry.key != record.order_key:
            revision.move(entry, record.order_key)
        fresh = entry.pending
        if entry.pending:
            entry.seq, entry.sent_in = event.seq, None
            self.report.uploaded += 1
            for effect in entry.effects.values():
                effect.accepted = effect.accepted or b""
        for patch in event.patches:
            fresh |= self._learn(entry, patch, event.seq)
        if fresh:
            revision.touch(entry)

    def _learn(self, entry: Entry, patch: KnownPatch, seq: Seq) -> bool:
        """Take in a known patch; whether it is news."""
        target = patch.target
        if target.audience not in self.state.audiences:
            return False
        effect = entry.effect(target)
        if effect.known is not None and effect.known.seq >= patch.seq:
            return False
        table, known = self.store.schema.tables.get(target.table), patch.known
        if entry.own and not effect.accepted:
            first = known.seq == seq
            effect.accepted = fingerprint(known.patch) if first else b"corrected"
        effect.foreign = table is None or not table.has_columns(patch.values or {})
        self.state.left_out |= effect.foreign
        if table is not None and patch.op == "insert" and not table.is_complete(patch.values or {}):
            known = msgspec.structs.replace(known, patch=completed(table, known.patch))
        effect.known, effect.denied = known, False
        return True

    def _leave(self, left: frozenset[Audience]) -> None:
        for audience in sorted(left):
            self.revision.leave(audience)
        for entry in self.revision.all():
            concerned = audiences_of(entry)
            if concerned.isdisjoint(left):
                continue
            if entry.pending:
                names = ", ".join(sorted(concerned & left))
                self.revision.park(entry, "left", f"the user is not in {names} any more")
            elif concerned <= left:
                self.revision.retire(entry)  # it stays what it became: a replay would miss the rows

    def _all_decided(self, request: SyncRequest) -> None:
        """Up to this horizon everything stored has come; earlier requests are void (O6)."""
        number = request.exchange.number
        for entry in self.revision.looked_at():  # the others are not read yet
            if entry.sent_in is not None and entry.sent_in <= number and entry.pending:
                entry.sent_in = None
        self.store.log.decided(number, earlier=True)


def _is_most(part: SyncRequest) -> bool:
    """Whether a single action makes up most of a part, rather than what is asked with it."""
    return any(2 * len(encode(action)) > len(encode(part)) for action in part.actions)


def _was_wrong(key: OrderKey, latest: OrderKey, now_ms: int) -> bool:
    """Whether a pending key follows neither the time nor others' keys.

    The clock was wrong when it was stamped, or that is longer ago than the server accepts.
    """
    ms = timestamp_of(key).ms
    return ms > max(timestamp_of(latest).ms, now_ms) + SKEW_MS_MAX or ms < now_ms - SKEW_MS_MAX


def _patches(action: SentAction) -> dict[Target, Patch | None]:
    return {patch.target: patch.patch for patch in action.patches}


def refusal_text(answer: Install | Limit, state: State) -> str:
    """Who has to act, and how."""
    if isinstance(answer, Install):
        return (
            f"the server has seen {answer.schema} migrations, this replica {state.migrations}: "
            "run `synchrotron install` for the server's database; until then work offline"
        )
    return f"the server's limit {answer.name!r} is exceeded"


def supersede(revision: Revision, answer: Superseded, entropy: Entropy) -> None:
    """The file was restored or copied: go on under a new client id (O6)."""
    state = revision.state
    fates = {fate.id: fate for fate in answer.fates}
    pending = revision.pending()
    state.client_id = ClientId(new_client_id(entropy))
    state.exchange, state.tokens = 0, []
    for entry in pending:
        # Offered with this request or not yet: nothing is known of the latter.
        fate = fates.get(entry.record.id)
        if fate is not None and fate.seed == entry.record.seed:
            # Accepted already: it comes back with the next download.
            revision.remove(entry)
            accepted = Outcome(id=entry.record.id, state="accepted")
            revision.set_aside.put(entry.record, accepted)
        elif fate is not None and fate.pruned:
            revision.park(entry, "restored", RESTORED)
        else:
            _renew(revision, entry, state.client_id)


def _renew(revision: Revision, entry: Entry, client: ClientId) -> None:
    record = entry.record.renewed(action_id(client, revision.next_n()))
    revision.renew(entry, record)
    revision.set_aside.rename(entry.record.id, record.id)
