"""The OpenAPI document and the golden vectors: what other programs rely on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.core.test_messages import (
    ALL,
    ANSWERS,
    CHUNKS,
    EXCHANGE,
    HEAD,
    ID,
    REQUEST,
    SEED,
    TOKEN,
    same,
)

from synchrotron.core.ids import Seq
from synchrotron.core.messages import (
    Offer,
    Resume,
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.server.openapi import document, text
from synchrotron.wire.formats import JSON, MESSAGEPACK, Reader, encode_json, encode_messagepack

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden.jsonl"


def test_the_document_in_the_repository_is_current() -> None:
    kept = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert kept == text(), "run: python -m synchrotron.server.openapi > docs/openapi.json"


def test_the_document_describes_every_message_and_refers_to_nothing_else() -> None:
    whole = document()
    schemas = whole["components"]["schemas"]
    assert {"SyncRequest", "Ok", "Behind", "Staged", "SnapshotHead", "Problem"} <= schemas.keys()
    body = msgspec.json.encode(whole).decode()
    referred = {part.partition('"')[0] for part in body.split("#/components/schemas/")[1:]}
    assert referred <= schemas.keys()
    statuses = whole["paths"]["/v1/sync"]["post"]["responses"].keys()
    assert {"200", "400", "401", "413", "429"} <= statuses


# ---- golden vectors --------------------------------------------------------------------

WISH = SnapshotRequest(
    EXCHANGE, [Offer(ID, SEED, [ID])], 2, resume=Resume(Seq(9), TOKEN, [ALL], "t", ALL, ["k", 2])
)
HEAD_WITH_PRUNED = msgspec.structs.replace(HEAD, accepted=[], pruned=[ID])
MESSAGES = [
    ("request", SyncRequest, REQUEST),
    ("part", SyncRequest, msgspec.structs.replace(REQUEST, part=2, parts=3, events_max=7)),
    ("snapshot request", SnapshotRequest, WISH),
    *((f"answer {kind}", SyncAnswer, answer) for kind, answer in ANSWERS),
    *((f"chunk {kind}", SnapshotChunk, chunk) for kind, chunk in CHUNKS),
    ("chunk head with pruned ids", SnapshotChunk, HEAD_WITH_PRUNED),
]
"""The bytes of each are in `golden.jsonl`. They are never made anew to get a test to pass:
a line that differs is another protocol, and needs another `PROTOCOL`."""


class Vector(msgspec.Struct):
    name: str
    json: str
    messagepack: bytes


VECTORS = {
    vector.name: vector
    for vector in map(msgspec.json.Decoder(Vector).decode, GOLDEN.read_bytes().splitlines())
}


def test_there_is_a_golden_vector_for_every_message() -> None:
    assert VECTORS.keys() == {name for name, _, _ in MESSAGES}


@pytest.mark.spec("M2")
@pytest.mark.parametrize(("name", "kind", "message"), MESSAGES, ids=[n for n, _, _ in MESSAGES])
def test_a_message_is_the_same_bytes_for_ever(name: str, kind: object, message: object) -> None:
    vector = VECTORS[name]
    assert encode_json(message).decode() == vector.json
    assert encode_messagepack(message) == vector.messagepack
    reader: Reader[object] = Reader(kind)
    assert same(reader.read(JSON, vector.json.encode()), message)
    assert same(reader.read(MESSAGEPACK, vector.messagepack), message)
