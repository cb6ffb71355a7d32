"""The pytest plugin: a server, replicas, and strict mode for an application's tests.

    # pyproject.toml
    [tool.pytest.ini_options]
    synchrotron_app = "todo:app"

    # test_todo.py
    def test_a_todo_reaches_the_others(replica, open_replica):
        replica.run(create_project, name="Home")
        replica.sync()
        other = open_replica("alice")
        other.sync()
        assert other.query("SELECT name FROM project") == replica.query(…)

Strict mode is on for every replica that a test opens, unless `SYNCHROTRON_STRICT` says
otherwise; `synchrotron_strict = false` leaves it off. An application that is made anew
for each test overrides the fixture `synchrotron_app`.
"""

from __future__ import annotations

import os
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from synchrotron import App, Replica
from synchrotron.testing.memory_server import MemoryServer

VARIABLE = "SYNCHROTRON_STRICT"


class OpenReplica(Protocol):
    """Opens a replica of `memory_server`; it is closed when the test ends."""

    def __call__(self, user: str = ..., path: Any = ..., **options: Any) -> Replica: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("synchrotron_app", "the application under test, as module:attribute")
    parser.addini(
        "synchrotron_strict",
        "run each action twice and report what it reaches for (see app.open, strict)",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getini("synchrotron_strict") and VARIABLE not in os.environ:
        os.environ[VARIABLE] = "1"
        config.add_cleanup(_forget)


def _forget() -> None:
    os.environ.pop(VARIABLE, None)


def clock_of_a_test() -> Callable[[], int]:
    """This machine's time in milliseconds, but never the same twice.

    So what a test runs later is later, also on another replica: two runs within a millisecond
    would be ordered by the ids of their replicas, which differ from test to test.
    """
    lock, last = threading.Lock(), 0

    def now_ms() -> int:
        nonlocal last
        with lock:
            last = max(last + 1, time.time_ns() // 1_000_000)
            return last

    return now_ms


@pytest.fixture
def synchrotron_app(pytestconfig: pytest.Config) -> App:
    """The application that the other fixtures serve: from the ini option, unless overridden."""
    name = pytestconfig.getini("synchrotron_app")
    if not name:
        raise pytest.UsageError(
            'which application? Write synchrotron_app = "module:attribute" into the pytest '
            "configuration, or override the fixture synchrotron_app in conftest.py"
        )
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"synchrotron_app = {name!r} cannot be found: {error}") from error
    if not isinstance(found, App):
        raise pytest.UsageError(
            f"synchrotron_app = {name!r} is of type {type(found).__name__}, and no App"
        )
    return found


@pytest.fixture
def synchrotron_user() -> str:
    """Whose replica `replica` is."""
    return "alice"


@pytest.fixture
def memory_server(synchrotron_app: App) -> MemoryServer:
    """A server in this process; memberships come from `app.audiences` over its own rows."""
    return MemoryServer(synchrotron_app)


@pytest.fixture
def open_replica(
    synchrotron_app: App, synchrotron_user: str, memory_server: MemoryServer
) -> Iterator[OpenReplica]:
    """Opens more replicas of `memory_server`: `open_replica("bob")`.

    They share a clock, so that what a test runs later comes later in order.
    """
    opened: list[Replica] = []

    clock = clock_of_a_test()

    def open(user: str = synchrotron_user, path: Any = ":memory:", **options: Any) -> Replica:
        options.setdefault("clock", clock)
        options.setdefault("transport", memory_server.connect(user))
        opened.append(synchrotron_app.open(path, **options))
        return opened[-1]

    yield open
    for replica in opened:
        replica.close()


@pytest.fixture
def replica(open_replica: OpenReplica) -> Replica:
    """A replica in memory, of `synchrotron_user`, connected to `memory_server`."""
    return open_replica()
