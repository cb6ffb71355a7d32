"""What the tests of the store share: see `bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store.bench import make_application, run_statements, sent_patches

from synchrotron import App, Replica


@pytest.fixture
def application() -> Callable[..., App]:
    """Makes an application: `application(schema, **options)`."""
    return make_application


@pytest.fixture
def do() -> Callable[..., Any]:
    """Runs SQL in an action: `do(replica, *statements)`."""
    return run_statements


@pytest.fixture
def patches() -> Callable[[Replica], dict[tuple[Any, ...], Any]]:
    """What the last action of a replica did to which rows, as sent."""
    return sent_patches


@pytest.fixture(params=["in memory", "on file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "in memory" else str(tmp_path / "replica.db")


@pytest.fixture
def replica(path: str) -> Iterator[Replica]:
    with make_application().open(path, user="alice") as opened:
        yield opened
