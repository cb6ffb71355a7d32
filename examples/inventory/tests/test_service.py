"""The service, as its callers see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from synchrotron import Replica

TWO_CUPS = {"sku": "cup", "quantity": 2, "customer": "Ada"}


def until(wanted: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not wanted():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def place(desk: TestClient, **order: Any) -> str:
    response = desk.post("/orders", json={**TWO_CUPS, **order})
    assert response.status_code == 201, response.text
    return str(response.json()["receipt"])


def test_offline_an_order_is_taken_at_once_and_pending(north_desk: TestClient) -> None:
    receipt = place(north_desk)
    assert north_desk.get(f"/orders/{receipt}").json() == {
        "receipt": receipt,
        "state": "pending",
        "why": None,
        "status": "open",
    }
    assert north_desk.get("/stock").json() == [{"sku": "cup", "name": "a cup", "stock": 1}]


def test_what_is_out_of_stock_here_is_refused_at_once(north_desk: TestClient) -> None:
    response = north_desk.post("/orders", json={**TWO_CUPS, "quantity": 4})
    assert (response.status_code, response.json()) == (
        409,
        {"detail": "3 of a cup left, 4 ordered"},
    )
    assert north_desk.post("/orders", json={**TWO_CUPS, "sku": "x"}).status_code == 404
    assert north_desk.post("/orders", json={**TWO_CUPS, "quantity": 0}).status_code == 422


def test_an_order_that_others_preceded_is_reported_as_rejected_with_the_rule(
    north: Replica, south: Replica, north_desk: TestClient, south_desk: TestClient
) -> None:
    earlier = place(south_desk, customer="Bea")
    later = place(north_desk)
    for replica in (north, south, north):
        replica.sync()

    assert north_desk.get(f"/orders/{later}").json() == {
        "receipt": later,
        "state": "rejected",
        "why": "1 of a cup left, 2 ordered",
        "status": None,
    }
    assert [notice["receipt"] for notice in north_desk.get("/notices").json()] == [later]
    assert south_desk.get("/notices").json() == []
    # The other branch's receipt is good here too; the rejected order stands nowhere.
    assert north_desk.get(f"/orders/{earlier}").json()["status"] == "open"
    assert south_desk.get(f"/orders/{later}").status_code == 404
    assert north_desk.post(f"/orders/{later}/shipment").status_code == 404


def test_an_order_is_cancelled_by_its_receipt_once(north_desk: TestClient) -> None:
    receipt = place(north_desk)
    cancelled = north_desk.post(f"/orders/{receipt}/cancellation")
    assert cancelled.json()["status"] == "cancelled"
    again = north_desk.post(f"/orders/{receipt}/shipment")
    assert (again.status_code, again.json()["detail"]) == (409, "the order is cancelled already")
    assert north_desk.get("/stock").json()[0]["stock"] == 3


def test_services_that_are_online_hear_of_each_other(
    online: tuple[TestClient, TestClient],
) -> None:
    north_desk, south_desk = online
    receipt = place(north_desk)
    until(lambda: south_desk.get("/stock").json()[0]["stock"] == 1)
    until(lambda: north_desk.get(f"/orders/{receipt}").json()["state"] == "accepted")
    south_desk.post(f"/orders/{receipt}/shipment")
    until(lambda: north_desk.get(f"/orders/{receipt}").json()["status"] == "shipped")
    until(lambda: north_desk.get("/sync").json() == {"state": "in step"})
