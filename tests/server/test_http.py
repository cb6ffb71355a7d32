"""Statuses, formats, compression and limits of the routes."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zstandard
from tests.replica import shop
from tests.replica.shop import create_counter
from tests.server.running import Running, ask, token

from synchrotron.core.messages import (
    Ok,
    SyncAnswer,
    SyncRequest,
    decode_answer,
    decode_chunks,
    encode,
)
from synchrotron.testing import MemoryServer
from synchrotron.wire.formats import JSON, LINES, MESSAGEPACK, Reader, encode_messagepack

Serve = Callable[..., Running]


def request(n: int = 1, user: str = "alice", size: int = 10) -> SyncRequest:
    """An upload of some actions, by a replica that never took anything in."""
    with shop.app.open(":memory:", user=user) as replica:
        for i in range(n):
            replica.run(create_counter, id=f"{i:0{size}}")
        return replica._engine.ask()


def post(
    served: Running,
    body: bytes,
    path: str = "/v1/sync",
    *,
    user: str = "alice",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    sent = {"authorization": f"Bearer {token(user)}", "content-type": JSON}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(served.url + path, "POST", data=body, headers=sent)


def problem(response: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, Any]]:
    return response[0], msgspec.json.decode(response[2])


# ---- formats and compression -----------------------------------------------------------


@pytest.mark.spec("M2")
@pytest.mark.parametrize("accept", [JSON, MESSAGEPACK, "*/*", ""])
@pytest.mark.parametrize("content_type", [JSON, MESSAGEPACK, "application/json; charset=utf-8"])
def test_json_and_messagepack_are_two_spellings_of_one_message(
    served: Running, memory: MemoryServer, content_type: str, accept: str
) -> None:
    sent = request()
    body = encode_messagepack(sent) if content_type == MESSAGEPACK else encode(sent)
    status, headers, answered = post(served, body, content_type=content_type, accept=accept)
    assert status == 200
    expected = MESSAGEPACK if accept == MESSAGEPACK else JSON
    assert headers["content-type"] == expected
    answer: SyncAnswer = Reader[SyncAnswer](SyncAnswer).read(expected, answered)
    assert isinstance(answer, Ok) and answer.accepted == [1]
    assert memory.history == [sent.actions[0].record]


@pytest.mark.parametrize("coding", ["zstd", "gzip", "identity"])
def test_bodies_may_be_compressed(served: Running, memory: MemoryServer, coding: str) -> None:
    body = encode(request(400))
    pressed = {
        "zstd": zstandard.ZstdCompressor().compress(body),
        "gzip": gzip.compress(body),
        "identity": body,
    }
    status, headers, answered = post(
        served, pressed[coding], content_encoding=coding, accept_encoding=coding
    )
    assert status == 200 and len(memory.history) == 400
    assert headers.get("content-encoding", "identity") == coding
    expand = {
        "zstd": lambda: zstandard.ZstdDecompressor().decompress(answered),
        "gzip": lambda: gzip.decompress(answered),
        "identity": lambda: answered,
    }
    assert isinstance(decode_answer(expand[coding]()), Ok)


def test_the_better_compression_is_chosen_and_short_bodies_are_left_alone(served: Running) -> None:
    _, headers, _ = post(served, encode(request(400)), accept_encoding="gzip, zstd;q=0.9, br")
    assert headers["content-encoding"] == "gzip"
    _, headers, _ = post(served, encode(request(400)), accept_encoding="gzip;q=0, zstd")
    assert headers["content-encoding"] == "zstd"
    _, headers, _ = post(served, encode(request(0)), user="carol", accept_encoding="zstd")
    assert "content-encoding" not in headers


@pytest.mark.parametrize("coding", ["zstd", "gzip", ""])
def test_a_snapshot_is_a_line_of_json_for_each_chunk(
    served: Running, memory: MemoryServer, coding: str
) -> None:
    post(served, encode(request(3)))
    with shop.app.open(":memory:", user="bob") as replica:
        wish = replica._engine.ask_snapshot()
    status, headers, body = post(
        served, encode(wish), "/v1/snapshot", user="bob", accept_encoding=coding
    )
    assert (status, headers["content-type"].partition(";")[0]) == (200, LINES)
    if coding == "zstd":
        body = zstandard.ZstdDecompressor().stream_reader(body).read()
    elif coding == "gzip":
        body = gzip.decompress(body)
    kinds = [type(chunk).__name__ for chunk in decode_chunks(iter(body.splitlines()))]
    assert kinds == ["SnapshotHead", "SnapshotRows", "SnapshotEnd"]


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.spec("M4")
@pytest.mark.parametrize(
    ("authorization", "cause"),
    [
        ("", "needs the header"),
        ("Bearer x.y.z", "header cannot be read"),
        (f"Bearer {token('alice', valid_s=-100)}", "expired"),
        (f"Bearer {token('alice', secret='b' * 40)}", "signature is wrong"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/sync", "/v1/snapshot", "/v1/events"])
def test_without_a_good_token_nothing_is_done(
    served: Running, memory: MemoryServer, path: str, authorization: str, cause: str
) -> None:
    method = "GET" if path == "/v1/events" else "POST"
    headers = {"authorization": authorization, "content-type": JSON}
    response = ask(served.url + path, method, data=encode(request()), headers=headers)
    status, said = problem(response)
    assert (status, said["kind"]) == (401, "unauthorized")
    assert cause in said["message"]
    assert response[1]["www-authenticate"].startswith("Bearer")
    assert memory.history == [] and memory._state.clients == {}


@pytest.mark.spec("M1")
@pytest.mark.parametrize(
    ("body", "headers", "status", "cause"),
    [
        (b"", {}, 400, "form"),
        (b"{}", {}, 400, "missing required field `exchange`"),
        (b"\xff\xfe", {}, 400, "form"),
        (
            encode(request()).replace(b'"args":{', b'"args":{"a":' + b"[" * 9999),
            {},
            400,
            "recursion",
        ),
        (b"\xc1", {"content_type": MESSAGEPACK}, 400, "form"),
        (b"\x81\x01\x01", {"content_type": MESSAGEPACK}, 400, "no name"),
        (b"\x81\xa1a\xcb\x7f\xf8" + b"\0" * 6, {"content_type": MESSAGEPACK}, 400, "no number"),
        (b"\x81\xa1a\xc4\x01a", {"content_type": MESSAGEPACK}, 400, "no type of JSON"),
        (b"no gzip", {"content_encoding": "gzip"}, 400, "not gzip"),
        (b"no zstd", {"content_encoding": "zstd"}, 400, "not zstd"),
        (b"{}", {"content_encoding": "br"}, 415, "zstd or gzip, not br"),
        (b"{}", {"content_type": "text/plain"}, 415, "not text/plain"),
        (b"{}", {"content_type": ""}, 415, "application/json"),
    ],
)
def test_a_malformed_body_is_refused_with_its_cause(
    served: Running,
    memory: MemoryServer,
    body: bytes,
    headers: dict[str, str],
    status: int,
    cause: str,
) -> None:
    got, said = problem(post(served, body, **headers))
    assert (got, cause in said["message"]) == (status, True), said
    assert memory._state.clients == {}


@pytest.mark.spec("M1")
def test_a_body_that_is_nested_too_deeply_is_refused(served: Running) -> None:
    deep = encode(request()).replace(b'"args":{', b'"args":{"a":' + b"[" * 9999)
    status, said = problem(post(served, deep))
    assert (status, "recursion" in said["message"]) == (400, True)


@pytest.mark.spec("A5", "M1")
def test_a_nul_is_refused_and_the_text_that_looks_like_one_is_not(
    served: Running, memory: MemoryServer
) -> None:
    body = encode(request())
    status, said = problem(post(served, body.replace(b"0000000000", rb"0\u0000")))
    assert (status, "NUL" in said["message"]) == (400, True)
    assert post(served, body.replace(b"0000000000", rb"0\\u0000"))[0] == 200


@pytest.mark.spec("H9")
def test_what_the_protocol_does_not_allow_is_refused(served: Running, memory: MemoryServer) -> None:
    sent = encode(request(0))
    assert post(served, sent)[0] == 200
    status, said = problem(post(served, sent, user="bob"))
    assert (status, said["kind"]) == (400, "malformed")
    assert "belongs to another user" in said["message"]


def test_other_paths_and_methods_are_told_so(served: Running) -> None:
    assert problem(ask(served.url + "/v2/sync"))[1]["kind"] == "not found"
    status, said = problem(ask(served.url + "/v1/sync"))
    assert (status, said["kind"]) == (405, "method")


# ---- limits ----------------------------------------------------------------------------


@pytest.mark.spec("M5")
@pytest.mark.parametrize("coding", ["identity", "zstd", "gzip"])
def test_a_body_above_the_limit_is_refused_also_where_it_only_expands_to_that(
    serve: Serve, memory: MemoryServer, coding: str
) -> None:
    served = serve(body_bytes_max=50_000)
    body = encode(request(1, size=20_000))
    pressed = {
        "identity": body,
        "zstd": zstandard.ZstdCompressor().compress(body),
        "gzip": gzip.compress(body),
    }
    status, said = problem(post(served, pressed[coding], content_encoding=coding))
    assert (status, said["kind"], said["name"]) == (413, "limit", "body_bytes_max")
    assert memory.history == []
    assert post(served, encode(request(1, size=10_000)))[0] == 200


@pytest.mark.spec("M5")
def test_a_bomb_is_not_expanded(serve: Serve) -> None:
    served = serve(body_bytes_max=1_000_000)
    bomb = zstandard.ZstdCompressor().compress(b" " * 200_000_000)
    begin_s = time.monotonic()
    status, said = problem(post(served, bomb, content_encoding="zstd"))
    assert (status, said["name"]) == (413, "body_bytes_max")
    assert time.monotonic() - begin_s < 5


@pytest.mark.spec("M5")
def test_too_many_actions_parts_and_offers_are_refused(serve: Serve, memory: MemoryServer) -> None:
    served = serve(actions_max=3, parts_max=2)
    status, said = problem(post(served, encode(request(4))))
    assert (status, said["name"]) == (413, "actions_max")
    many = msgspec.structs.replace(request(1), parts=3)
    assert problem(post(served, encode(many)))[1]["name"] == "parts_max"
    with shop.app.open(":memory:", user="alice") as replica:
        for i in range(7):
            replica.run(create_counter, id=str(i))
        wish = replica._engine.ask_snapshot()
    assert problem(post(served, encode(wish), "/v1/snapshot"))[1]["name"] == "actions_max"
    # In parts, six actions may be uploaded: so many are offered where they wait for a snapshot.
    fewer = msgspec.structs.replace(wish, offers=wish.offers[:6])
    assert post(served, encode(fewer), "/v1/snapshot")[0] == 200
    assert memory.history == []
    assert post(served, encode(request(3)))[0] == 200


@pytest.mark.spec("M5")
def test_whoever_asks_too_often_is_told_when_to_come_again(serve: Serve) -> None:
    served = serve(requests_per_minute=3)
    body = encode(request(0))
    assert [post(served, body)[0] for _ in range(4)] == [200, 200, 200, 429]
    response = post(served, body)
    status, said = problem(response)
    assert (status, said["kind"], said["name"]) == (429, "limit", "requests_per_minute")
    assert 0 < int(response[1]["retry-after"]) <= 21
    assert 0 < said["retry_after_ms"] <= 21_000
    assert post(served, encode(request(0)), user="bob")[0] == 200, "others are not hindered"


@pytest.mark.spec("M5")
def test_event_streams_are_limited(serve: Serve) -> None:
    served = serve(event_streams_per_user=1)
    with open_events(served) as first:
        assert b"retry:" in first.read(7)
        headers = {"authorization": f"Bearer {token('alice')}"}
        status, said = problem(ask(served.url + "/v1/events", headers=headers))
        assert (status, said["name"]) == (429, "event_streams_per_user")
    deadline_s = time.monotonic() + 10
    while True:  # the place is free again once the server has noticed
        try:
            with open_events(served):
                break
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def open_events(served: Running, user: str = "alice", **claims: Any) -> Any:
    from urllib.request import Request, urlopen

    headers = {"Authorization": f"Bearer {token(user, **claims)}"}
    return urlopen(Request(served.url + "/v1/events", headers=headers), timeout=20)


# ---- the rest --------------------------------------------------------------------------


def test_health_metrics_and_the_document_need_no_token(served: Running) -> None:
    post(served, encode(request(2)))
    assert problem(ask(served.url + "/health")) == (200, {"status": "ok"})
    status, headers, text = ask(served.url + "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    assert b"synchrotron_actions_accepted_total 2.0" in text
    assert b'synchrotron_requests_total{route="/v1/sync",status="200"} 1.0' in text
    assert b'synchrotron_answers_total{kind="ok"} 1.0' in text
    assert b"alice" not in text
    document = msgspec.json.decode(ask(served.url + "/openapi.json")[2])
    assert "/v1/sync" in document["paths"]


def test_metrics_can_be_left_out(serve: Serve) -> None:
    assert ask(serve(metrics=False).url + "/metrics")[0] == 404


def test_each_request_leaves_a_line_with_its_fields(
    served: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "synchrotron.server")
    sent = request(2)
    post(served, encode(sent))
    post(served, b"{}")
    good, bad = [r.fields for r in caplog.records if hasattr(r, "fields")]
    assert (good["route"], good["status"], good["kind"], good["actions"]) == (
        "/v1/sync", 200, "ok", 2,
    )  # fmt: skip
    assert good["client"] == sent.exchange.client_id
    assert bad["status"] == 400 and "exchange" in bad["cause"]
