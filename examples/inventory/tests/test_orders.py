"""The rules, where branches sell without knowing of each other."""

from __future__ import annotations

import pytest
from inventory.app import NotOpen, OutOfStock, cancel_order, place_order, receive_goods, ship_order

from synchrotron import Replica
from synchrotron.testing import MemoryServer


def settle(*replicas: Replica) -> None:
    for _ in range(2):
        for replica in replicas:
            replica.sync()


def stock(replica: Replica) -> int:
    [item] = replica.query("SELECT stock FROM item WHERE sku = 'cup'")
    return int(item["stock"])


def test_what_is_not_there_cannot_be_sold(north: Replica) -> None:
    with pytest.raises(OutOfStock, match="3 of a cup left, 4 ordered"):
        north.run(place_order, sku="cup", quantity=4, customer="Ada")
    assert stock(north) == 3


def test_of_two_who_sell_the_same_cups_the_earlier_one_sold_them(
    north: Replica, south: Replica, memory_server: MemoryServer
) -> None:
    earlier = south.run(place_order, sku="cup", quantity=2, customer="Bea")
    later = north.run(place_order, sku="cup", quantity=2, customer="Ada")
    settle(north, south)
    assert earlier.outcome.state == "accepted"
    assert (later.outcome.state, later.outcome.detail) == (
        "rejected",
        "OutOfStock: 1 of a cup left, 2 ordered",
    )
    assert stock(north) == stock(south) == 1
    assert [row["customer"] for row in memory_server.rows("customer_order")] == ["Bea"]


def test_an_order_stands_where_what_stood_in_its_way_was_cancelled_before(
    north: Replica, south: Replica
) -> None:
    blocking = south.run(place_order, sku="cup", quantity=2, customer="Bea")
    south.run(cancel_order, order=blocking.result)
    later = north.run(place_order, sku="cup", quantity=2, customer="Ada")
    settle(north, south)
    assert later.outcome.state == "accepted"
    assert stock(north) == stock(south) == 1


def test_goods_that_came_elsewhere_can_be_sold_once_they_are_known(
    north: Replica, south: Replica
) -> None:
    south.run(receive_goods, sku="cup", name="a cup", quantity=10)
    settle(south, north)
    north.run(place_order, sku="cup", quantity=12, customer="Ada")
    settle(north, south)
    assert stock(south) == 1


def test_an_order_is_shipped_or_cancelled_and_never_both(north: Replica, south: Replica) -> None:
    order = north.run(place_order, sku="cup", quantity=1, customer="Ada").result
    settle(north, south)
    shipped = south.run(ship_order, order=order)
    cancelled = north.run(cancel_order, order=order)
    settle(north, south)
    assert shipped.outcome.state == "accepted"
    assert cancelled.outcome.state == "rejected"
    assert stock(north) == stock(south) == 2
    with pytest.raises(NotOpen, match="shipped already"):
        north.run(cancel_order, order=order)
