"""The messages between a replica and a server (SPEC section 9).

One exchange carries an upload and asks for a download. An answer says its `kind`;
those that give events carry a `Download`. Decoding validates: an invalid message
cannot be built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from synchrotron.core.clock import ORDER_KEY, OrderKey
from synchrotron.core.ids import ACTION_ID, CLIENT_ID, SEED, ActionId, Audience, ClientId, Seq
from synchrotron.core.patches import DELETE, Known, Patch, Target, insert, update
from synchrotron.core.records import ActionRecord

PROTOCOL = 2
EVENTS_MAX = 500
"""As many are replayed in about 100 ms, which is how long a writer should wait at most."""
PARTS_MAX = 10_000
COUNT_MAX = 2**62
"""What counts up fits into 64 bits, on every side."""

_ClientId = Annotated[ClientId, Meta(pattern=rf"^{CLIENT_ID}\Z")]
_ActionId = Annotated[ActionId, Meta(pattern=rf"^{ACTION_ID}\Z")]
_OrderKey = Annotated[OrderKey, Meta(pattern=rf"^{ORDER_KEY}\Z")]
_Token = Annotated[str, Meta(pattern=rf"^{CLIENT_ID}\Z")]
_Seed = Annotated[str, Meta(pattern=rf"^{SEED}\Z")]
_Seq = Annotated[Seq, Meta(ge=0, le=COUNT_MAX)]
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Part = Annotated[int, Meta(ge=1, le=PARTS_MAX)]


# ---- patches on their way ---------------------------------------------------------


class RowPatch(Struct, frozen=True, gc=False):
    """A patch on its way. `op` is None for a removal: the action no longer changes the row."""

    table: str
    key: list[Any]
    audience: Audience
    op: Literal["insert", "update", "delete"] | None
    values: dict[str, Any] | None = None

    @property
    def target(self) -> Target:
        return Target(self.table, tuple(self.key), self.audience)

    @property
    def patch(self) -> Patch | None:
        match self.op:
            case "insert":
                return insert(self.values or {})
            case "update":
                return update(self.values or {})
            case "delete":
                return DELETE
            case None:
                return None


def row_patch(target: Target, patch: Patch | None) -> RowPatch:
    values = patch.values if patch is not None and patch.op != "delete" else None
    return RowPatch(
        target.table, list(target.key), target.audience, patch.op if patch else None, values
    )


class KnownPatch(RowPatch, frozen=True, kw_only=True, gc=False):
    """A patch as the server holds it."""

    seq: _Seq
    basis: _Seq

    @property
    def known(self) -> Known:
        return Known(self.patch, self.seq, self.basis)


def known_patch(target: Target, known: Known) -> KnownPatch:
    p = row_patch(target, known.patch)
    return KnownPatch(p.table, p.key, p.audience, p.op, p.values, seq=known.seq, basis=known.basis)


# ---- the question -----------------------------------------------------------------


class Exchange(Struct, frozen=True):
    """What tells one request of one database file from every other (O6).

    `number` counts up; `token` is fresh and random; `earlier` are the tokens of the
    file's requests since the last answer taken in, that one's included.
    """

    client_id: _ClientId
    number: _Count
    token: _Token
    earlier: list[_Token]


class Question(Struct, frozen=True):
    """What an answer depends on; it counts only while the replica is still at it."""

    cursor: _Seq
    cursor_token: str
    floor: _OrderKey | None
    audiences: list[Audience]


class SentAction(Struct, frozen=True, gc=False):
    """A pending action with the patches that the replica computed for it.

    `formerly` are the ids that it had before its file was restored or copied: another
    copy of the file may have uploaded the same run under one of them (O6).
    """

    record: ActionRecord
    patches: list[RowPatch]
    formerly: list[_ActionId] = []


class SentCorrection(Struct, frozen=True, gc=False):
    """A replacement for the patch of an accepted action on one row in one audience."""

    action_id: _ActionId
    patch: RowPatch


class SyncRequest(Struct, frozen=True):
    """`POST /v1/sync`: an upload, which may be empty, and a question.

    A large upload is cut over several requests, its `parts`, with the same exchange and
    question: the first `part` is 1, and only the whole is judged (H1).
    """

    exchange: Exchange
    question: Question
    actions: list[SentAction] = []
    corrections: list[SentCorrection] = []
    schema: _Count = 0
    """How many migrations the replica's database has seen."""
    protocol: int = PROTOCOL
    part: _Part = 1
    parts: _Part = 1
    events_max: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = EVENTS_MAX
    """As many events make a page; a server may give fewer."""
    seen: _Seq = Seq(0)
    """The newest commit that an answer told of, and its token: what the replica knows may be
    of commits above its cursor (H11)."""
    seen_token: str = ""

    def __post_init__(self) -> None:
        if self.part > self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")


class Offer(Struct, frozen=True, gc=False):
    """An action whose fate the replica asks about."""

    id: _ActionId
    seed: _Seed
    formerly: list[_ActionId] = []


class Resume(Struct, frozen=True):
    """What a replica has of a snapshot that broke off: its rows up to and including this one.

    Rows are in the order of tables in the schema, audiences and keys. `horizon` and `token`
    are those of the snapshot's head, or of the newest head it was resumed with.
    """

    horizon: _Seq
    token: str
    audiences: list[Audience]
    table: str
    audience: Audience
    key: list[Any]

    @property
    def target(self) -> Target:
        return Target(self.table, tuple(self.key), self.audience)


class SnapshotRequest(Struct, frozen=True):
    """`POST /v1/snapshot`. `offers` are the ids whose fate the replica does not know."""

    exchange: Exchange
    offers: list[Offer]
    schema: _Count = 0
    protocol: int = PROTOCOL
    resume: Resume | None = None
    """Go on after this row, where that is still possible."""


# ---- the download -----------------------------------------------------------------


class Event(Struct, frozen=True, gc=False):
    """An accepted action with its present patches in the user's audiences."""

    record: ActionRecord
    seq: _Seq
    patches: list[KnownPatch]


class FloorRow(Struct, frozen=True, gc=False):
    """A row as it stands at the replica's floor; `values` is None where there is none."""

    table: str
    key: list[Any]
    audience: Audience
    values: dict[str, Any] | None

    @property
    def target(self) -> Target:
        return Target(self.table, tuple(self.key), self.audience)


class Download(Struct, frozen=True):
    """Everything up to `horizon` that the replica does not have yet.

    What was ordered at or below the replica's floor comes as `rows`; `below` is the
    newest seq among it. `more`: the horizon is that of a page; ask again.
    """

    horizon: _Seq
    token: str
    audiences: list[Audience]
    events: list[Event] = []
    rows: list[FloorRow] = []
    below: _Seq = Seq(0)
    more: bool = False
    newest: _Seq = Seq(0)
    """The newest commit that this answer tells of, with its token (H11)."""
    newest_token: str = ""


# ---- the answers ------------------------------------------------------------------


class Answer(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every answer carries: the server's time (ms) and floor."""

    now_ms: int
    floor: _OrderKey | None = None


class Corrected(Struct, frozen=True, gc=False):
    """What became of a correction: its seq, or None where it was denied (S5)."""

    action_id: _ActionId
    table: str
    key: list[Any]
    audience: Audience
    seq: _Seq | None

    @property
    def target(self) -> Target:
        return Target(self.table, tuple(self.key), self.audience)


class Ok(Answer, frozen=True, tag="ok"):
    """Everything sent was stored, but for denied corrections."""

    download: Download
    accepted: list[_Seq] = []
    """The seq of each action, in the order in which they were sent."""
    moved: dict[_ActionId, _OrderKey] = {}
    """Retried actions that are stored with another order key, which the replica takes (H4)."""
    corrected: list[Corrected] = []


class Behind(Answer, frozen=True, tag="behind"):
    """Nothing was stored: events by others come first (H3)."""

    download: Download


class Busy(Answer, frozen=True, tag="busy"):
    """Nothing was stored: another replica holds a lease."""

    retry_after_ms: int


class Refusal(Answer, frozen=True):
    """Nothing was stored, because of one action."""

    action_id: _ActionId
    table: str | None
    key: list[Any] | None
    reason: str


class Denied(Refusal, frozen=True, tag="denied"):
    """The user may not write a row that the action writes (H6)."""


class Invalid(Refusal, frozen=True, tag="invalid"):
    """The end state would violate a constraint (H5)."""


class Stale(Answer, frozen=True, tag="stale"):
    """An action lies below the server's floor, or was pruned there: rebase (F4)."""


class Rebase(Answer, frozen=True, tag="rebase"):
    """The cursor, or an audience just joined, lies below the server's floor: rebase."""


class Early(Answer, frozen=True, tag="early"):
    """An order key is too far in the future, or further back than `max_backdate` (O4)."""

    action_id: _ActionId


class Staged(Answer, frozen=True, tag="staged"):
    """This part of an upload is kept; the upload is judged when the missing ones are there."""

    missing: list[int]


class Duplicate(Answer, frozen=True, tag="duplicate"):
    """The exchange was decided before; this one did nothing."""


class Fate(Struct, frozen=True, gc=False):
    """What became of an offered id: the seed stored under it, or `pruned`."""

    id: _ActionId
    seed: _Seed | None
    pruned: bool = False


class Superseded(Answer, frozen=True, tag="superseded"):
    """The file was restored or copied: it needs a new client id (O6)."""

    fates: list[Fate]


class Epoch(Answer, frozen=True, tag="epoch"):
    """The server's history is not the one that the cursor is from (H11)."""


class Install(Answer, frozen=True, tag="install"):
    """The replica's schema is ahead of the server's (S11)."""

    schema: int


class Limit(Answer, frozen=True, tag="limit"):
    """A size, count or rate is exceeded; `name` says which."""

    name: str


SyncAnswer = (
    Ok
    | Behind
    | Busy
    | Denied
    | Invalid
    | Stale
    | Rebase
    | Early
    | Staged
    | Duplicate
    | Superseded
    | Epoch
    | Install
    | Limit
)


# ---- snapshots --------------------------------------------------------------------


class SnapshotHead(Struct, frozen=True, tag_field="kind", tag="head"):
    """The first chunk: where the snapshot stands, and what became of the offered ids."""

    now_ms: int
    floor: _OrderKey | None
    """The newest order key folded into the rows: the replica's new floor."""
    server_floor: _OrderKey | None
    horizon: _Seq
    token: str
    audiences: list[Audience]
    accepted: list[_ActionId]
    """The offered runs that the server has."""
    resumed: bool = False
    """The rows that the replica has stay, but for those in the chunks of changes that follow."""
    pruned: list[_ActionId] | UnsetType = UNSET
    """Offered or former ids, of clients that the file was before (O6), under which an action
    was accepted and pruned: this run, or that of a copy of the file. Left out if there are none."""


class SnapshotChanges(Struct, frozen=True, tag_field="kind", tag="changes"):
    """Of a resumed snapshot, before any further rows: those of the replica's that changed."""

    rows: list[FloorRow]


class SnapshotRows(Struct, frozen=True, tag_field="kind", tag="rows"):
    """Rows of one table."""

    table: str
    audience: Audience
    rows: list[dict[str, Any]]


class SnapshotEnd(Struct, frozen=True, tag_field="kind", tag="end"):
    """The last chunk: without it the snapshot is incomplete."""

    rows: int
    """How many came as `rows` after this snapshot's own head."""


SnapshotRefusal = Duplicate | Superseded | Install | Limit
SnapshotChunk = SnapshotHead | SnapshotChanges | SnapshotRows | SnapshotEnd | SnapshotRefusal

_encoder = msgspec.json.Encoder()
_answers: msgspec.json.Decoder[SyncAnswer] = msgspec.json.Decoder(SyncAnswer)
_chunks: msgspec.json.Decoder[SnapshotChunk] = msgspec.json.Decoder(SnapshotChunk)
_requests = msgspec.json.Decoder(SyncRequest)
_snapshot_requests = msgspec.json.Decoder(SnapshotRequest)

encode = _encoder.encode
decode_request = _requests.decode
decode_answer = _answers.decode
decode_snapshot_request = _snapshot_requests.decode


def decode_chunks(lines: Iterator[bytes]) -> Iterator[SnapshotChunk]:
    """Snapshot chunks travel as one JSON document a line."""
    return map(_chunks.decode, lines)
