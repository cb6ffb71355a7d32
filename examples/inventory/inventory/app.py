"""The application: what is in stock, who ordered what, and the rules of both.

All branches share one audience. The first of them opens the company and names the others.
"""

from __future__ import annotations

from synchrotron import App, Context

app = App(
    "inventory",
    schema="""
        CREATE TABLE branch (
            user_id TEXT PRIMARY KEY,
            audience_key TEXT GENERATED ALWAYS AS ('company') STORED
        );
        CREATE TABLE item (
            sku TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            received INTEGER NOT NULL,
            stock INTEGER NOT NULL CHECK (stock >= 0),
            audience_key TEXT GENERATED ALWAYS AS ('company') STORED
        );
        CREATE TABLE customer_order (
            id TEXT PRIMARY KEY,
            receipt TEXT NOT NULL,
            sku TEXT NOT NULL REFERENCES item (sku),
            quantity INTEGER NOT NULL CHECK (quantity > 0),
            customer TEXT NOT NULL,
            branch TEXT NOT NULL,
            placed_at TIMESTAMP NOT NULL,
            status TEXT NOT NULL DEFAULT 'open'
                CHECK (status IN ('open', 'shipped', 'cancelled')),
            audience_key TEXT GENERATED ALWAYS AS ('company') STORED
        );
        CREATE INDEX customer_order_by_receipt ON customer_order (receipt);
        CREATE INDEX customer_order_by_sku ON customer_order (sku);
    """,
    audiences="SELECT user_id, audience_key FROM branch",
)

INVARIANTS = (
    "SELECT * FROM item WHERE stock < 0",
    # What was received is on the shelf or in an order that stands.
    """
        SELECT item.sku FROM item WHERE received <> stock + (
            SELECT coalesce(sum(quantity), 0) FROM customer_order AS o
            WHERE o.sku = item.sku AND o.status <> 'cancelled'
        )
    """,
)
"""Queries that give no row, at any time, on any replica and on the server."""


class Refused(Exception):
    """A rule of the company. Its text is for customers and clerks."""


class OutOfStock(Refused):
    """Not so many are left."""


class NoSuchItem(Refused):
    """Nothing is sold under this number."""


class NotOpen(Refused):
    """The order was shipped or cancelled, or is not there."""


@app.action(audience="company")
def open_company(ctx: Context, *, branches: list[str]) -> None:
    for user in sorted({*branches, ctx.user}):
        ctx.execute("INSERT INTO branch (user_id) VALUES (?)", (user,))


@app.action(audience="company")
def receive_goods(ctx: Context, *, sku: str, name: str, quantity: int) -> None:
    ctx.execute(
        """
        INSERT INTO item (sku, name, received, stock) VALUES (:sku, :name, :quantity, :quantity)
        ON CONFLICT (sku) DO UPDATE SET
            received = received + :quantity, stock = stock + :quantity
        """,
        {"sku": sku, "name": name, "quantity": quantity},
    )


@app.action(audience="company")
def place_order(ctx: Context, *, sku: str, quantity: int, customer: str) -> str:
    """Reserve stock for a customer. Gives the order's id."""
    found = ctx.execute("SELECT name, stock FROM item WHERE sku = ?", (sku,))
    if not found:
        raise NoSuchItem(f"there is no item {sku}")
    [item] = found
    if item["stock"] < quantity:
        raise OutOfStock(f"{item['stock']} of {item['name']} left, {quantity} ordered")
    ctx.execute("UPDATE item SET stock = stock - ? WHERE sku = ?", (quantity, sku))
    order = ctx.new_id("customer_order")
    ctx.execute(
        """
        INSERT INTO customer_order (id, receipt, sku, quantity, customer, branch, placed_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (order, ctx.action_id, sku, quantity, customer, ctx.user, ctx.now),
    )
    return order


@app.action(audience="company")
def ship_order(ctx: Context, *, order: str) -> None:
    require_open(ctx, order)
    ctx.execute("UPDATE customer_order SET status = 'shipped' WHERE id = ?", (order,))


@app.action(audience="company")
def cancel_order(ctx: Context, *, order: str) -> None:
    sku, quantity = require_open(ctx, order)
    ctx.execute("UPDATE customer_order SET status = 'cancelled' WHERE id = ?", (order,))
    ctx.execute("UPDATE item SET stock = stock + ? WHERE sku = ?", (quantity, sku))


def require_open(ctx: Context, order: str) -> tuple[str, int]:
    """The item and quantity of an order. Raises `NotOpen`."""
    found = ctx.execute("SELECT sku, quantity, status FROM customer_order WHERE id = ?", (order,))
    if not found:
        raise NotOpen(f"there is no order {order}")
    [row] = found
    if row["status"] != "open":
        raise NotOpen(f"the order is {row['status']} already")
    return row["sku"], row["quantity"]
