"""The web service of one branch. It embeds a replica, and so it answers with or without a network.

Who orders gets a *receipt*: the id of the action that placed the order. What became of that is
asked for by the receipt, and may change while the branch is offline: others may have sold the same
pieces earlier. Then the outcome is `rejected`, and the order is not there any more, at any branch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from inventory.app import NoSuchItem, Refused, cancel_order, place_order, receive_goods, ship_order
from synchrotron import Outcome, Replica
from synchrotron.errors import UnknownOutcome

Quantity = Annotated[int, Field(gt=0, le=1_000_000)]


class NewOrder(BaseModel):
    sku: str
    quantity: Quantity
    customer: str


class Delivery(BaseModel):
    sku: str
    name: str
    quantity: Quantity


class Order(BaseModel):
    """What is known of an order at this branch."""

    receipt: str
    state: str
    """Of its placing: pending, accepted, rejected, changed, parked or discarded."""
    why: str | None
    status: str | None
    """open, shipped or cancelled; None where the order does not stand."""


def make_service(replica: Replica) -> FastAPI:
    """A service on a replica, which is kept in step for as long as the service runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with replica.syncing_async():
            yield

    service = FastAPI(title="Inventory", lifespan=lifespan)

    # Plain functions: FastAPI runs them in threads, and a replica may be used from any.

    @service.get("/stock")
    def stock() -> list[dict[str, Any]]:
        return [
            dict(row) for row in replica.query("SELECT sku, name, stock FROM item ORDER BY sku")
        ]

    @service.post("/deliveries", status_code=204)
    def deliver(delivery: Delivery) -> None:
        replica.run(receive_goods, **delivery.model_dump())

    @service.post("/orders", status_code=201)
    def order(new: NewOrder) -> Order:
        with rules_as_responses():
            run = replica.run(place_order, **new.model_dump())
        return order_of(replica, run.id)

    @service.get("/orders/{receipt}")
    def show(receipt: str) -> Order:
        return order_of(replica, receipt)

    @service.post("/orders/{receipt}/shipment")
    def ship(receipt: str) -> Order:
        with rules_as_responses():
            replica.run(ship_order, order=standing_order(replica, receipt))
        return order_of(replica, receipt)

    @service.post("/orders/{receipt}/cancellation")
    def cancel(receipt: str) -> Order:
        with rules_as_responses():
            replica.run(cancel_order, order=standing_order(replica, receipt))
        return order_of(replica, receipt)

    @service.get("/notices")
    def notices() -> list[Order]:
        """Own actions that came out otherwise than the customer was told."""
        return [
            order_of(replica, outcome.id)
            for outcome in replica.outcomes()
            if outcome.state in ("rejected", "changed", "parked")
        ]

    @service.get("/sync")
    def sync() -> dict[str, str]:
        return {"state": replica.state}

    return service


@contextmanager
def rules_as_responses() -> Iterator[None]:
    """A rule of the application as the response that says it."""
    try:
        yield
    except Refused as error:
        status = 404 if isinstance(error, NoSuchItem) else 409
        raise HTTPException(status, str(error)) from error


def order_of(replica: Replica, receipt: str) -> Order:
    """An order by its receipt, also one that another branch gave."""
    try:
        outcome = replica.outcome(receipt)
    except UnknownOutcome:
        outcome = None
    status = status_of(replica, receipt if outcome is None else outcome.id)
    if outcome is None:
        if status is None:
            raise HTTPException(404, f"there is no receipt {receipt}")
        return Order(receipt=receipt, state="accepted", why=None, status=status)
    return Order(receipt=receipt, state=outcome.state, why=why(outcome), status=status)


def status_of(replica: Replica, receipt: str) -> str | None:
    rows = replica.query("SELECT status FROM customer_order WHERE receipt = ?", (receipt,))
    return rows[0]["status"] if rows else None


def standing_order(replica: Replica, receipt: str) -> str:
    rows = replica.query("SELECT id FROM customer_order WHERE receipt = ?", (receipt,))
    if not rows:
        raise HTTPException(404, f"no order stands under the receipt {receipt}")
    return str(rows[0]["id"])


def why(outcome: Outcome) -> str | None:
    """The rule's own words, without the name of its class."""
    if outcome.detail is None or outcome.state != "rejected":
        return outcome.detail
    return outcome.detail.partition(": ")[2] or outcome.detail
