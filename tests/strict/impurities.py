"""An application whose actions each do what no action may: one planted impurity each.

The line that is at fault ends in `# impure`; in `put`, which several share, there is none.
"""

from __future__ import annotations

import datetime
import itertools
import locale
import logging
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path

from synchrotron import App, Context

app = App(
    "impurities",
    schema="""
        CREATE TABLE note (
            id TEXT PRIMARY KEY,
            text TEXT,
            n BIGINT NOT NULL DEFAULT 0,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
    """,
)

counter = itertools.count()
PRICES = Path(__file__).with_name("prices.txt")


def put(ctx: Context, text: object) -> None:
    ctx.execute("INSERT INTO note (text) VALUES (?)", (str(text),))


@app.action
def fill(ctx: Context) -> None:
    for n in range(5):
        ctx.execute("INSERT INTO note (id, text, n) VALUES (?, 'a note', ?)", (f"n{n}", n))


# ---- refused: no replay can get the same -------------------------------------------------


@app.action
def wall_clock(ctx: Context) -> None:
    put(ctx, time.time())  # impure


@app.action
def wall_clock_as_datetime(ctx: Context) -> None:
    put(ctx, datetime.datetime.now(datetime.UTC))  # impure


@app.action
def today(ctx: Context) -> None:
    put(ctx, datetime.date.today())  # impure


@app.action
def shared_dice(ctx: Context) -> None:
    put(ctx, random.random())  # impure


@app.action
def shared_dice_through_python(ctx: Context) -> None:
    put(ctx, random.choice(["a", "b"]))  # impure


@app.action
def dice_seeded_by_the_machine(ctx: Context) -> None:
    put(ctx, random.Random().random())  # impure


@app.action
def dice_of_the_system(ctx: Context) -> None:
    put(ctx, random.SystemRandom().random())  # impure


@app.action
def random_uuid(ctx: Context) -> None:
    put(ctx, uuid.uuid4())  # impure


@app.action
def random_bytes(ctx: Context) -> None:
    put(ctx, os.urandom(4))  # impure


@app.action
def secret(ctx: Context) -> None:
    put(ctx, secrets.token_hex(4))  # impure


@app.action
def network_call(ctx: Context) -> None:
    socket.create_connection(("127.0.0.1", 9))  # impure


@app.action
def swallowed_network_call(ctx: Context) -> None:
    try:
        socket.create_connection(("127.0.0.1", 9))  # impure
    except Exception:
        put(ctx, "offline")


@app.action
def other_process(ctx: Context) -> None:
    subprocess.run(["true"], check=True)  # impure


@app.action
def thread(ctx: Context) -> None:
    threading.Thread(target=print).start()  # impure


# ---- refused: two runs came out differently ------------------------------------------------


@app.action
def module_level_counter(ctx: Context) -> None:
    number = next(counter)
    ctx.execute("INSERT INTO note (n) VALUES (?)", (number,))  # impure


@app.action
def unordered_limit(ctx: Context) -> None:
    [row] = ctx.execute("SELECT id FROM note LIMIT 1")  # impure
    ctx.execute("UPDATE note SET text = 'first' WHERE id = ?", (row["id"],))


@app.action
def unordered_limit_within(ctx: Context) -> None:
    put(ctx, ctx.execute("SELECT count(*) AS n FROM note")[0]["n"])
    ctx.execute("DELETE FROM note WHERE id = (SELECT id FROM note LIMIT 1)")  # impure


@app.action
def result_by_order(ctx: Context) -> list[str]:
    return [row["id"] for row in ctx.execute("SELECT id FROM note")]  # impure


@app.action
def raises_by_order(ctx: Context) -> None:
    for row in ctx.execute("SELECT id, n FROM note"):  # impure
        if row["n"] in (0, 4):
            raise LookupError(f"{row['id']} is at an end")


# ---- warned of: another machine may get something else -------------------------------------


@app.action
def environment(ctx: Context) -> None:
    put(ctx, os.environ.get("HOME"))  # impure


@app.action
def file_read(ctx: Context) -> None:
    put(ctx, PRICES.read_text())  # impure


@app.action
def float_by_locale(ctx: Context) -> None:
    put(ctx, locale.format_string("%.2f", 3.5))  # impure


@app.action
def float_by_locale_in_an_f_string(ctx: Context) -> None:
    price = 3.5
    put(ctx, f"for {price:,.2f} or {price:n}")  # impure


# ---- only another process sees it ----------------------------------------------------------


@app.action
def set_order(ctx: Context) -> None:
    for name in {"ann", "bob", "carol", "dave", "eve", "frank", "grace", "heidi"}:
        ctx.execute("INSERT INTO note (text) VALUES (?)", (name,))  # impure


@app.action
def hash_of_a_text(ctx: Context) -> None:
    ctx.execute("INSERT INTO note (n) VALUES (?)", (hash("text"),))  # impure


@app.action
def local_time(ctx: Context) -> None:
    raise LookupError(datetime.datetime.fromtimestamp(ctx.now.timestamp()).hour)


# ---- pure, whatever it looks like ------------------------------------------------------------


@app.action
def pure(ctx: Context) -> set[str]:
    logging.getLogger("impurities").info("logging looks at the clock for itself")
    put(ctx, ctx.now)
    put(ctx, ctx.random.choice(["a", "b"]))
    put(ctx, ctx.new_id("note"))
    put(ctx, random.Random(7).random())
    put(ctx, datetime.datetime.strptime("2026-01-02", "%Y-%m-%d"))
    put(ctx, f"{3.5:.2f} {ctx.now:%d.%m.%Y}")
    for row in ctx.execute("SELECT id FROM note"):  # each gets the same: no order shows
        ctx.execute("UPDATE note SET n = n + 1 WHERE id = ?", (row["id"],))
    return {row["id"] for row in ctx.execute("SELECT id FROM note")}
