"""Purity: an action that does not do the same on the same rows is found out."""

import time

import pytest

from synchrotron import App, Context
from synchrotron.errors import ArgumentError
from synchrotron.testing import Impure, check_purity

app = App(
    "notes",
    schema="""CREATE TABLE note (
        id TEXT PRIMARY KEY, text TEXT, at DOUBLE PRECISION,
        audience_key TEXT GENERATED ALWAYS AS ('user:ann') STORED)""",
)


@app.action
def write(ctx: Context, *, text: str) -> str:
    note = ctx.new_id("note")
    at = ctx.now.timestamp() + ctx.random.random()
    ctx.execute("INSERT INTO note (id, text, at) VALUES (?, ?, ?)", (note, text, at))
    return note


@app.action
def write_at_the_machines_time(ctx: Context) -> None:
    ctx.execute("INSERT INTO note (id, at) VALUES ('x', ?)", (time.perf_counter(),))


@app.action
def mark_the_first(ctx: Context) -> None:
    first = ctx.execute("SELECT id FROM note")[0]["id"]
    ctx.execute("UPDATE note SET text = 'first' WHERE id = ?", (first,))


@app.action
def fail_differently(ctx: Context) -> None:
    raise ValueError(time.perf_counter())


@pytest.fixture
def replica():
    with app.open(":memory:", user="ann") as replica:
        for text in ("a", "b", "c"):
            replica.run(write, text=text)
        yield replica


@pytest.mark.spec("A3")
def test_a_pure_action_passes_and_leaves_nothing_behind(replica) -> None:
    before, log = replica.query("SELECT * FROM note"), replica.log()
    check_purity(replica, write, text="d")
    assert replica.query("SELECT * FROM note") == before
    assert replica.log() == log
    assert replica.run(write, text="e").id.endswith("-4"), "no id was used up"


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        (write_at_the_machines_time, "reads this machine's clock"),
        (mark_the_first, "Add ORDER BY"),
        (fail_differently, "reads this machine's clock"),
    ],
)
def test_an_impure_action_is_named_with_what_differs(replica, action, complaint) -> None:
    with pytest.raises(Impure, match=action.name) as found:
        check_purity(replica, action)
    assert complaint in str(found.value)


def test_wrong_arguments_are_the_callers(replica) -> None:
    with pytest.raises(ArgumentError):
        check_purity(replica, write, txt="d")  # type: ignore[call-arg]
