"""Where tests get their server from: `MemoryServer`, or another that does the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from synchrotron.testing.memory_server import MemoryServer

_make: ContextVar[Callable[..., MemoryServer]] = ContextVar("make", default=MemoryServer)


def new_server(*args: Any, **options: Any) -> MemoryServer:
    """A server, made as `MemoryServer` is."""
    return _make.get()(*args, **options)


@contextmanager
def servers_by(make: Callable[..., MemoryServer]) -> Iterator[None]:
    """Inside, servers are made by `make`."""
    token = _make.set(make)
    try:
        yield
    finally:
        _make.reset(token)
