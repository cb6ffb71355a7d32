"""PostgreSQL authorities for tests, each with a database of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, new_database

Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(app, **options)`: an authority on a new database with this application."""
    servers: list[Served] = []

    def make(app: Any, **options: Any) -> Served:
        servers.append(Served(new_database(app), **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        drop_database(server.database)
