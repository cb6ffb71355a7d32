"""A server over history in memory, behind real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.replica import shop
from tests.server.running import Running, running

from synchrotron.testing import MemoryServer

EVERYONE = {"alice": {"all"}, "bob": {"all"}, "carol": {"other"}}


@pytest.fixture
def memory() -> MemoryServer:
    return MemoryServer(shop.app, EVERYONE)


@pytest.fixture
def serve(memory: MemoryServer) -> Iterator[Callable[..., Running]]:
    """Start servers over the same history, with settings of one's own."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(running(memory, **options).__enter__())
        return started[-1]

    yield start
    for each in started:
        each.__exit__(None, None, None)


@pytest.fixture
def served(serve: Callable[..., Running]) -> Running:
    return serve()
