"""These tests run twice: with `MemoryServer`, and with it and PostgreSQL in step."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.postgres.twin import Twin
from tests.servers import servers_by


@pytest.fixture(autouse=True, params=["memory", "postgres"])
def servers(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "memory":
        yield
        return
    twins: list[Twin] = []

    def twin(*args: Any, **options: Any) -> Twin:
        twins.append(Twin(*args, **options))
        return twins[-1]

    with servers_by(twin):
        yield
    for server in twins:
        server.close()
