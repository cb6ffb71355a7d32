"""Two branches, north and south, and a server in the same process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from inventory.app import open_company, receive_goods
from inventory.service import make_service

from synchrotron import Replica
from synchrotron.testing.pytest_plugin import OpenReplica


@pytest.fixture
def north(open_replica: OpenReplica) -> Replica:
    """It has opened the company, and received three cups."""
    north = open_replica("north")
    north.run(open_company, branches=["south"])
    north.run(receive_goods, sku="cup", name="a cup", quantity=3)
    north.sync()
    return north


@pytest.fixture
def south(open_replica: OpenReplica, north: Replica) -> Replica:
    south = open_replica("south")
    south.sync()
    return south


@pytest.fixture
def north_desk(north: Replica) -> TestClient:
    """The service of the northern branch, offline: nothing syncs by itself."""
    return TestClient(make_service(north))


@pytest.fixture
def south_desk(south: Replica) -> TestClient:
    return TestClient(make_service(south))


@pytest.fixture
def online(north: Replica, south: Replica) -> Iterator[tuple[TestClient, TestClient]]:
    """Both services, kept in step in the background by their lifespans."""
    with TestClient(make_service(north)) as one, TestClient(make_service(south)) as other:
        yield one, other
