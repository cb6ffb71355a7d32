"""Random histories of this application's actions, on devices and networks that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from inventory.app import (
    INVARIANTS,
    app,
    cancel_order,
    open_company,
    place_order,
    receive_goods,
    ship_order,
)

from synchrotron import Row
from synchrotron.testing import Simulation, check_purity
from synchrotron.testing.pytest_plugin import OpenReplica

Query = Callable[..., Sequence[Row]]
BRANCHES = ("north", "south", "west")
SEEDS = 4


@open_company.sample
def _(rng: Random, query: Query) -> dict[str, Any]:
    return {"branches": [rng.choice(BRANCHES)]}


@receive_goods.sample
def _(rng: Random, query: Query) -> dict[str, Any]:
    sku = rng.choice(("cup", "pot"))
    return {"sku": sku, "name": f"a {sku}", "quantity": rng.randint(1, 5)}


@place_order.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    items = query("SELECT sku FROM item ORDER BY sku")
    if not items:
        return None
    sku = rng.choice(items)["sku"]
    return {"sku": sku, "quantity": rng.randint(1, 4), "customer": "Ada"}


@ship_order.sample
@cancel_order.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    orders = query("SELECT id FROM customer_order WHERE status = 'open' ORDER BY id")
    return {"order": rng.choice(orders)["id"]} if orders else None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_in_random_histories_nothing_is_sold_twice_and_all_agree(seed: int) -> None:
    everyone = {branch: {"company"} for branch in BRANCHES}
    Simulation(
        app,
        seed=seed,
        users=BRANCHES,
        audiences=everyone,
        invariants=INVARIANTS,
    ).run()


def test_the_invariants_are_looked_at() -> None:
    """One that does not hold fails: now and then the last cup but one is sold."""
    wrong = Simulation(
        app, seed=0, users=BRANCHES, invariants=["SELECT * FROM item WHERE stock < 2"]
    )
    with pytest.raises(AssertionError, match="invariant"):
        wrong.run()


def test_ordering_is_deterministic(open_replica: OpenReplica) -> None:
    replica = open_replica("north")
    replica.run(receive_goods, sku="cup", name="a cup", quantity=3)
    check_purity(replica, place_order, sku="cup", quantity=2, customer="Ada")
