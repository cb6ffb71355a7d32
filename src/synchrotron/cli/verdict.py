"""The demo's verdict: whether everyone ends with the same rows, and with the right ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from synchrotron.cli.market import app
from synchrotron.cli.stage import Stage
from synchrotron.cli.story import JARS, VISITORS
from synchrotron.testing.oracle import Tables


class Check(NamedTuple):
    """A claim, and what speaks against it."""

    claim: str
    against: list[str]


def verdict(stage: Stage) -> list[Check]:
    """All that must be true in the end."""
    held = stage.held()
    server = held.pop("server")
    rows = sum(map(len, server.values()))
    return [
        Check("Nobody has anything left to send.", list(unsent(stage))),
        Check(
            f"The three replicas and the server hold the same {rows} rows.",
            [
                difference
                for name, tables in held.items()
                for difference in differences(name, tables, "server", server)
            ],
        ),
        Check(
            f"They are the rows that all {len(stage.history())} actions give when they run "
            "once, in order, on an empty database.",
            list(differences("server", server, "in order", stage.serial())),
        ),
        Check(
            f"Every visitor was counted: {' + '.join(map(str, VISITORS))} = {sum(VISITORS)}.",
            unless(visitors(server) == sum(VISITORS), f"{visitors(server)} were counted"),
        ),
        Check(
            f"No jar was sold twice: {JARS} jars = {left(server)} left + {sold(server)} sold.",
            unless(
                left(server) >= 0 and left(server) + sold(server) == JARS, "the jars do not add up"
            ),
        ),
    ]


def unless(holds: bool, otherwise: str) -> list[str]:
    return [] if holds else [otherwise]


def unsent(stage: Stage) -> Iterator[str]:
    for name, n in stage.unsent().items():
        yield f"{name} has still to send: {n}"


def differences(name: str, tables: Tables, other: str, others: Tables) -> Iterator[str]:
    """The rows that two sides hold differently, a line each."""
    for table, definition in app.schema.tables.items():
        [key] = definition.key
        ours, theirs = ({row[key]: row for row in rows[table]} for rows in (tables, others))
        for id in sorted(ours.keys() | theirs.keys()):
            if ours.get(id) != theirs.get(id):
                yield f"{table} {id}: {name} {short(ours.get(id))}; {other} {short(theirs.get(id))}"


def short(row: dict[str, Any] | None) -> str:
    """A row without its key and audience: `n=13`."""
    if row is None:
        return "has no such row"
    shown = list(row.items())[1:-1]
    return "has " + (", ".join(f"{name}={value!r}" for name, value in shown) or "it")


# ---- what the stall is about, in a few words ---------------------------------------------


def left(tables: Tables) -> int:
    return sum(row["stock"] for row in tables["product"])


def sold(tables: Tables) -> int:
    return sum(row["jars"] for row in tables["sale"])


def visitors(tables: Tables) -> int:
    return sum(row["n"] for row in tables["counter"])


def baker(tables: Tables) -> str:
    return ", ".join(row["owner"] or "nobody" for row in tables["task"])


def prices(tables: Tables) -> str:
    return ", ".join(row["text"] for row in tables["note"]) or "gone"


FACTS: dict[str, Callable[[Tables], object]] = {
    "jars left": left,
    "jars sold": sold,
    "visitors": visitors,
    "bakes bread": baker,
    "price list": prices,
}
