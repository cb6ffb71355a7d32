"""Whatever is sent: never a 5xx, and nothing is stored but what is allowed.

Messages that are valid are made crooked at random: values of other types, keys left out
or added, extreme numbers, strange texts. What cannot be read must leave no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import EXAMPLES
from tests.replica import shop
from tests.replica.shop import add, create_counter
from tests.server.running import Running, running, token

from synchrotron.core.messages import Resume, encode
from synchrotron.testing import MemoryServer
from synchrotron.wire.formats import JSON, MESSAGEPACK

pytestmark = pytest.mark.slow

EVERYONE = {"alice": {"all"}, "bob": {"all"}}
FUZZ = settings(max_examples=max(EXAMPLES, 10) * 2)


def valid() -> list[tuple[str, Any]]:
    """Messages of a replica that has pending actions and knows others'."""
    server = MemoryServer(shop.app, EVERYONE)
    with (
        shop.app.open(":memory:", transport=server.connect("alice")) as a,
        shop.app.open(":memory:", transport=server.connect("bob")) as b,
    ):
        a.run(create_counter, id="x")
        a.sync()
        b.sync()
        b.run(add, id="x", by=1)
        a.run(add, id="x", by=2)
        b.sync()
        upload = a._engine.ask()
        wish = a._engine.ask_snapshot()
        head = next(iter(server.connect("bob").snapshot(b._engine.ask_snapshot())))
    resume = Resume(head.horizon, head.token, head.audiences, "counter", "all", ["x"])
    again = msgspec.structs.replace(wish, resume=resume)
    part = msgspec.structs.replace(upload, part=1, parts=2)
    documents = [("/v1/sync", upload), ("/v1/sync", part), ("/v1/snapshot", again)]
    return [(path, msgspec.json.decode(encode(message))) for path, message in documents]


VALID = valid()
TEXTS = st.sampled_from(
    ["", "\0", "x" * 70_000, "counter", "'; DROP TABLE counter; --", "0" * 24, "f" * 24 + "-0",
     "all", "project:x", "é", "\U0001f600", "f" * 24 + "-" + "9" * 5000, "\\u0000", "NaN"]
)  # fmt: skip
NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**40, 0.5, 1e308])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a document."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, item in items:
        yield (*path, name)
        yield from places(item, (*path, name))


@st.composite
def crooked(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid message with some of its values replaced, removed, repeated or added."""
    path, document = draw(st.sampled_from(VALID))
    document = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(document))
        *parents, last = draw(st.sampled_from(known)) if known else (None,)
        if last is None:
            break
        inside = document
        for name in parents:
            inside = inside[name]
        match draw(st.sampled_from(["replace", "replace", "remove", "repeat", "add"])):
            case "replace":
                inside[last] = draw(VALUES)
            case "remove":
                del inside[last]
            case "repeat" if isinstance(inside, list):
                inside.append(deepcopy(inside[last]))
            case _ if isinstance(inside, dict):
                inside[draw(st.text(max_size=4))] = draw(VALUES)
    return path, document


class Prober:
    """Posts bodies on one connection, as one user."""

    def __init__(self, served: Running) -> None:
        self._url = served.url
        self._loop = asyncio.new_event_loop()
        self._session = self._loop.run_until_complete(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def post(self, path: str, body: bytes, user: str = "alice", **headers: str) -> int:
        async def post() -> int:
            sent = {"authorization": f"Bearer {token(user)}", **headers}
            async with self._session.post(self._url + path, data=body, headers=sent) as response:
                answered = await response.read()
                if response.status != 200:
                    assert msgspec.json.decode(answered)["message"]
                return response.status

        return self._loop.run_until_complete(post())

    def close(self) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


@pytest.fixture(scope="module")
def memory() -> MemoryServer:
    return MemoryServer(shop.app, EVERYONE)


@pytest.fixture(scope="module")
def post(memory: MemoryServer) -> Iterator[Callable[..., int]]:
    with running(memory, requests_per_minute=10**9, body_bytes_max=1_000_000) as served:
        prober = Prober(served)
        yield prober.post
        prober.close()


def traces(memory: MemoryServer) -> tuple[Any, ...]:
    state = memory._state
    return state.seq, dict(state.clients), dict(state.parts), memory.rows("counter")


@pytest.mark.spec("M1")
@FUZZ
@given(message=crooked())
def test_a_crooked_message_is_refused_or_judged_and_never_fails(
    memory: MemoryServer, post: Callable[..., int], message: tuple[str, Any]
) -> None:
    path, document = message
    before = traces(memory)
    status = post(path, msgspec.json.encode(document), **{"content-type": JSON})
    assert status in (200, 400, 413)
    if status != 200:
        assert traces(memory) == before


@pytest.mark.spec("M1")
@FUZZ
@given(message=crooked())
def test_so_it_is_in_messagepack(
    memory: MemoryServer, post: Callable[..., int], message: tuple[str, Any]
) -> None:
    path, document = message
    try:
        body = msgspec.msgpack.encode(document)
    except OverflowError:  # an integer that MessagePack cannot say
        return
    before = traces(memory)
    status = post(path, body, **{"content-type": MESSAGEPACK})
    assert status in (200, 400, 413)
    if status != 200:
        assert traces(memory) == before


@pytest.mark.spec("M1")
@FUZZ
@given(
    body=st.binary(max_size=300),
    path=st.sampled_from(["/v1/sync", "/v1/snapshot"]),
    format=st.sampled_from([JSON, MESSAGEPACK, "text/plain", ""]),
    coding=st.sampled_from(["", "gzip", "zstd", "identity", "br", "gzip, gzip"]),
)
def test_any_bytes_in_any_wrapping_are_refused(
    memory: MemoryServer, post: Callable[..., int], body: bytes, path: str, format: str, coding: str
) -> None:
    before = traces(memory)
    status = post(path, body, **{"content-type": format, "content-encoding": coding})
    assert status in (400, 413, 415)
    assert traces(memory) == before
