"""Messages: what is sent arrives, and an invalid one cannot be built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from synchrotron.core import messages as m
from synchrotron.core.canonical import canonical, decode
from synchrotron.core.clock import Timestamp, order_key, to_datetime
from synchrotron.core.ids import ActionId, Audience, ClientId, Seq
from synchrotron.core.patches import DELETE, Known, Target, insert, update
from synchrotron.core.records import ActionRecord

CLIENT = ClientId("0123456789abcdef01234567")
TOKEN = "f" * 24
SEED = "00112233445566778899aabbccddeeff"
ID = ActionId(f"{CLIENT}-3")
KEY = order_key(Timestamp(1_700_000_000_000, 2), CLIENT)
ALL = Audience("all")
TARGET = Target("t", ("k", 2), ALL)
VALUES = {"i": 1, "f": 1.0, "b": True, "s": "é\u2028", "n": None, "j": {"b": [1.0, 1], "a": {}}}
PATCHES = [insert(VALUES), update({"f": 1.0, "n": None}), update({}), DELETE, None]

RECORD = ActionRecord(
    id=ID,
    seed=SEED,
    name="buy",
    version=2,
    args={"x": 1.0, "y": [1, None]},
    now=to_datetime(1_700_000_000_000),
    order_key=KEY,
    client_id=CLIENT,
    user="alice",
    audiences=(ALL,),
)
EXCHANGE = m.Exchange(CLIENT, 4, TOKEN, ["a" * 24, "b" * 24])
KNOWN = [m.known_patch(TARGET, Known(patch, Seq(7), Seq(5))) for patch in PATCHES]
DOWNLOAD = m.Download(
    horizon=Seq(9),
    token=TOKEN,
    audiences=[ALL],
    events=[m.Event(RECORD, Seq(7), KNOWN)],
    rows=[m.FloorRow("t", ["k", 2], ALL, VALUES), m.FloorRow("t", ["l", 2], ALL, None)],
    below=Seq(3),
    more=True,
)
REQUEST = m.SyncRequest(
    EXCHANGE,
    m.Question(Seq(3), TOKEN, KEY, [ALL]),
    [m.SentAction(RECORD, [m.row_patch(TARGET, patch) for patch in PATCHES])],
    [m.SentCorrection(ID, m.row_patch(TARGET, patch)) for patch in PATCHES],
    schema=2,
)
ANSWERS: list[tuple[str, m.SyncAnswer]] = [
    (
        "ok",
        m.Ok(
            now_ms=5,
            floor=KEY,
            download=DOWNLOAD,
            accepted=[Seq(8)],
            moved={ID: KEY},
            corrected=[
                m.Corrected(ID, "t", ["k", 2], ALL, Seq(9)),
                m.Corrected(ID, "t", ["l", 2], ALL, None),
            ],
        ),
    ),
    ("behind", m.Behind(now_ms=5, download=DOWNLOAD)),
    ("busy", m.Busy(now_ms=5, retry_after_ms=200)),
    ("denied", m.Denied(now_ms=5, action_id=ID, table="t", key=["k", 2], reason="policy")),
    ("invalid", m.Invalid(now_ms=5, action_id=ID, table=None, key=None, reason="check")),
    ("stale", m.Stale(now_ms=5, floor=KEY)),
    ("rebase", m.Rebase(now_ms=5)),
    ("early", m.Early(now_ms=5, action_id=ID)),
    ("staged", m.Staged(now_ms=5, missing=[2, 3])),
    ("duplicate", m.Duplicate(now_ms=5)),
    (
        "superseded",
        m.Superseded(now_ms=5, fates=[m.Fate(ID, SEED), m.Fate(ID, None, pruned=True)]),
    ),
    ("epoch", m.Epoch(now_ms=5)),
    ("install", m.Install(now_ms=5, schema=3)),
    ("limit", m.Limit(now_ms=5, name="actions")),
]
HEAD = m.SnapshotHead(5, KEY, None, Seq(9), TOKEN, [ALL], [ID])
CHUNKS: list[tuple[str, m.SnapshotChunk]] = [
    ("head", HEAD),
    ("changes", m.SnapshotChanges([m.FloorRow("t", ["k", 2], ALL, None)])),
    ("rows", m.SnapshotRows("t", ALL, [VALUES])),
    ("end", m.SnapshotEnd(1)),
    *[(k, a) for k, a in ANSWERS if k in ("duplicate", "superseded", "install", "limit")],
]


def same(a: Any, b: Any) -> bool:
    """As the wire sees them: 1 and 1.0 are two values."""
    return bool(a == b) and m.encode(a) == m.encode(b)


# ---- round trips ---------------------------------------------------------------------


@pytest.mark.spec("M2")
@pytest.mark.parametrize(("kind", "answer"), ANSWERS, ids=[kind for kind, _ in ANSWERS])
def test_an_answer_arrives_as_it_was_sent(kind: str, answer: m.SyncAnswer) -> None:
    sent = m.encode(answer)
    assert decode(sent)["kind"] == kind
    assert same(m.decode_answer(sent), answer)


def test_every_kind_of_answer_is_tried() -> None:
    assert {type(answer) for _, answer in ANSWERS} == set(m.SyncAnswer.__args__)
    assert {type(chunk) for _, chunk in CHUNKS} == set(m.SnapshotChunk.__args__)


@pytest.mark.parametrize("request_", [REQUEST, m.SyncRequest(EXCHANGE, REQUEST.question)])
def test_a_request_arrives_as_it_was_sent(request_: m.SyncRequest) -> None:
    assert same(m.decode_request(m.encode(request_)), request_)


def test_a_request_for_a_snapshot_arrives_as_it_was_sent() -> None:
    asked = m.SnapshotRequest(EXCHANGE, [m.Offer(ID, SEED)], schema=1)
    assert same(m.decode_snapshot_request(m.encode(asked)), asked)


def test_a_snapshot_arrives_line_by_line() -> None:
    lines = [m.encode(chunk) for _, chunk in CHUNKS]
    assert not any(b"\n" in line for line in lines)
    assert [decode(line)["kind"] for line in lines] == [kind for kind, _ in CHUNKS]
    received = list(m.decode_chunks(iter(lines)))
    assert all(same(got, sent) for got, (_, sent) in zip(received, CHUNKS, strict=True))


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_stays_itself_on_its_way(patch: Any) -> None:
    sent = m.row_patch(TARGET, patch)
    got = msgspec.json.decode(m.encode(sent), type=m.RowPatch)
    assert (got.target, got.patch) == (TARGET, patch)
    known = Known(patch, Seq(7), Seq(5))
    got = msgspec.json.decode(m.encode(m.known_patch(TARGET, known)), type=m.KnownPatch)
    assert (got.target, got.known) == (TARGET, known)


def test_a_removal_is_not_a_delete() -> None:
    removal, delete = (m.row_patch(TARGET, patch) for patch in (None, DELETE))
    assert (removal.op, delete.op) == (None, "delete")
    assert removal.patch is None
    assert delete.patch == DELETE


# ---- what cannot be decoded ----------------------------------------------------------


def spoilt(value: Any, path: list[Any], wrong: Any) -> bytes:
    """A message with one field replaced."""
    message = decode(m.encode(value))
    inner = message
    for step in path[:-1]:
        inner = inner[step]
    assert path[-1] in inner if isinstance(inner, dict) else path[-1] < len(inner)
    inner[path[-1]] = wrong
    return canonical(message).encode()


@pytest.mark.spec("M1")
@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (["exchange", "client_id"], CLIENT.upper()),
        (["exchange", "client_id"], CLIENT + "0"),
        (["exchange", "client_id"], CLIENT + "\n"),
        (["exchange", "number"], -1),
        (["exchange", "number"], "4"),
        (["exchange", "token"], ""),
        (["exchange", "earlier", 0], "nonsense"),
        (["actions", 0, "record", "id"], f"{CLIENT}-0"),
        (["actions", 0, "record", "id"], f"{TOKEN}-3"),
        (["actions", 0, "record", "seed"], "short"),
        (["actions", 0, "record", "order_key"], "0"),
        (["actions", 0, "record", "now"], "yesterday"),
        (["actions", 0, "record", "now"], "2026-01-02T03:04:05"),
        (["actions", 0, "patches", 0, "op"], "upsert"),
        (["actions", 0, "patches", 0, "key"], "k"),
        (["corrections", 0, "action_id"], "nonsense"),
        (["question", "floor"], "nonsense"),
        (["question", "cursor"], -1),
        (["schema"], None),
    ],
    ids=str,
)
def test_an_invalid_request_is_refused(path: list[Any], wrong: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        m.decode_request(spoilt(REQUEST, path, wrong))


@pytest.mark.spec("M1")
@pytest.mark.parametrize(
    ("answer", "path", "wrong"),
    [
        ("ok", ["kind"], "fine"),
        ("ok", ["floor"], "nonsense"),
        ("ok", ["accepted", 0], -1),
        ("ok", ["moved"], {"nonsense": KEY}),
        ("ok", ["moved", ID], "nonsense"),
        ("ok", ["corrected", 0, "action_id"], "nonsense"),
        ("ok", ["download", "events", 0, "record", "id"], "nonsense"),
        ("ok", ["download", "events", 0, "patches", 0, "seq"], "7"),
        ("behind", ["download", "horizon"], 1.5),
        ("busy", ["retry_after_ms"], None),
        ("denied", ["action_id"], "nonsense"),
        ("early", ["action_id"], "nonsense"),
        ("superseded", ["fates", 0, "id"], "nonsense"),
        ("superseded", ["fates", 0, "seed"], "nonsense"),
    ],
    ids=str,
)
def test_an_invalid_answer_is_refused(answer: str, path: list[Any], wrong: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        m.decode_answer(spoilt(dict(ANSWERS)[answer], path, wrong))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (m.decode_request, b""),
        (m.decode_request, b"{}"),
        (m.decode_request, b"[]"),
        (m.decode_answer, b"null"),
        (m.decode_answer, b'{"now_ms":1}'),
        (m.decode_snapshot_request, b"\xff"),
    ],
)
def test_what_is_no_message_is_refused(decoder: Callable[[bytes], Any], message: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decoder(message)


@pytest.mark.spec("M1")
def test_what_a_later_version_adds_is_passed_over() -> None:
    message = decode(m.encode(REQUEST)) | {"colour": "blue"}
    assert same(m.decode_request(canonical(message).encode()), REQUEST)
