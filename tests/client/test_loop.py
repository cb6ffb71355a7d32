"""The event loop of the connection: however it is ended, its end comes, and leaves nothing open."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from tests.replica import shop
from tests.server.running import Running, running, token

from synchrotron.client import loop as loop_module
from synchrotron.client.http import HttpTransport
from synchrotron.client.loop import LoopThread
from synchrotron.errors import Offline
from synchrotron.testing import MemoryServer


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("synchrotron")]


async def nothing() -> None:
    pass


def test_work_that_will_not_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "INSIST_S", 0.01)
    told = 0

    async def stubborn() -> None:
        nonlocal told
        while told < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told += 1

    loop = LoopThread("synchrotron test")
    loop.start(stubborn())
    loop.run(nothing())
    loop.close(nothing)
    assert told == 3


def test_what_is_begun_while_it_ends_ends_too() -> None:
    async def again() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            left.append(asyncio.ensure_future(asyncio.sleep(60)))

    left: list[asyncio.Future[None]] = []
    loop = LoopThread("synchrotron test")
    loop.start(again())
    loop.run(nothing())
    loop.close(nothing)
    assert [each.cancelled() for each in left] == [True]


def test_the_last_thing_comes_when_all_else_has_ended_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "LAST_S", 0.01)
    went = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            went.append("work")

    async def last() -> None:
        went.append("last")
        await asyncio.sleep(60)

    loop = LoopThread("synchrotron test")
    loop.start(work())
    loop.run(nothing())
    loop.close(last)
    assert went == ["work", "last"]
    with pytest.raises(Offline, match="closed"):
        loop.run(nothing())


def test_one_that_was_never_begun_has_nothing_to_end() -> None:
    LoopThread("synchrotron test").close(nothing)


@pytest.fixture
def served() -> Iterator[Running]:
    with running(MemoryServer(shop.app, {"alice": {"all"}})) as serving:
        yield serving


@pytest.mark.parametrize("after_ms", [0, 0.5, 1, 2, 5])
def test_a_transport_that_is_closed_at_any_moment_leaves_no_connection_open(
    served: Running, after_ms: float
) -> None:
    transport, heard = HttpTransport(served.url, token("alice")), threading.Event()
    transport.listen(lambda horizon: heard.set(), lambda hears: None)
    assert heard.wait(60)
    transport.listen(lambda horizon: None, lambda hears: None)
    time.sleep(after_ms / 1000)
    transport.close()
    assert transport._session is None or transport._session.closed
