"""Snapshots that broke off, and go on where they were."""

from typing import Any

import pytest
from tests.testing.by_hand import (
    BOTH,
    P1,
    P2,
    Clock,
    File,
    delete,
    given,
    insert,
    update,
)

from synchrotron.core.ids import Audience
from synchrotron.core.messages import Offer, Resume, SnapshotChanges, SnapshotHead, SnapshotRows
from synchrotron.testing.memory_server import MemoryServer


def place(head: SnapshotHead, key: str, audience: Audience = P1, table: str = "item") -> Resume:
    return Resume(head.horizon, head.token, head.audiences, table, audience, [key])


def server_with(*keys: str) -> tuple[MemoryServer, File]:
    server = given({user: set(audiences) for user, audiences in BOTH.items()})
    a = File(server, "alice", "a")
    a.ok(*(a.action(i, insert(key, i)) for i, key in enumerate(keys)))
    return server, a


def keys(chunks: list[Any]) -> list[str]:
    return [row["id"] for c in chunks if isinstance(c, SnapshotRows) for row in c.rows]


def changes(chunks: list[Any]) -> dict[str, Any]:
    rows = [row for c in chunks if isinstance(c, SnapshotChanges) for row in c.rows]
    return {row.key[0]: row.values and row.values["n"] for row in rows}


@pytest.mark.spec("F1")
def test_a_resumed_snapshot_goes_on_after_the_last_row_that_came() -> None:
    server, _ = server_with("a", "b", "c", "d")
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    [resumed, *chunks] = b.snapshot(resume=place(head, "b"))
    assert (head.resumed, resumed.resumed) == (False, True)
    assert (changes(chunks), keys(chunks)) == ({}, ["c", "d"])
    assert chunks[-1].rows == 2


@pytest.mark.spec("F1")
def test_what_changed_meanwhile_among_the_rows_that_came_is_told_first_and_as_it_is_now() -> None:
    server, a = server_with("a", "b", "c", "d", "e")
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    a.ok(
        a.action(10, update("a", n=10), update("d", n=10), delete("b")),
        a.action(11, insert("aa", 11), insert("f", 11), insert("g", 11, in_=P2)),
        a.action(12, update("a", n=12), insert("B", 12), delete("e")),
    )
    [resumed, *chunks] = b.snapshot(resume=place(head, "c"))
    assert resumed.horizon == 8 and resumed.resumed
    assert changes(chunks) == {"B": 12, "a": 12, "aa": 11, "b": None}
    assert keys(chunks) == ["d", "f", "g"]
    kinds = [chunk.__class__.__name__ for chunk in chunks]
    assert kinds == ["SnapshotChanges", "SnapshotRows", "SnapshotRows", "SnapshotEnd"]


@pytest.mark.spec("F1")
def test_a_correction_and_a_late_action_change_a_row_that_came() -> None:
    server, a = server_with("a", "b")
    made = a.action(5, insert("c", 5))
    a.ok(made)
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    a.ok(a.action(4, update("b", n=44)), corrections=[])
    [_, *chunks] = b.snapshot(resume=place(head, "c"))
    assert changes(chunks) == {"b": 44}


@pytest.mark.spec("F1")
@pytest.mark.parametrize("table", ["project", "note", "item"])
def test_the_order_of_rows_is_that_of_tables_audiences_and_keys(table: str) -> None:
    server, a = server_with("a", "b")
    a.ok(a.action(20, insert("0", in_=P2), insert("z", in_=P1)))
    b = File(server, "bob", "b")
    [head, *whole] = b.snapshot()
    assert keys(whole) == ["a", "b", "z", "0"]
    [_, *chunks] = b.snapshot(resume=place(head, "a", P1, table))
    after = {"project": ["a", "b", "z", "0"], "note": [], "item": ["b", "z", "0"]}
    assert keys(chunks) == after[table]


@pytest.mark.spec("F1")
@pytest.mark.parametrize(
    "reason", ["joined", "left", "pruned", "another history", "unknown horizon", "no such row"]
)
def test_a_snapshot_begins_anew_where_it_cannot_go_on(reason: str) -> None:
    server, a = server_with("a", "b", "c")
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    resume = place(head, "b")
    match reason:
        case "joined":
            server.audiences["bob"].add("project:p3")
        case "left":
            server.audiences["bob"].discard("project:p2")
        case "pruned":
            a.ok(a.action(10, update("a", n=10)))
            server.prune(keep=0)
        case "another history":
            resume = place(SnapshotHead(0, None, None, head.horizon, "x", head.audiences, []), "b")
        case "unknown horizon":
            resume = place(SnapshotHead(0, None, None, 99, head.token, head.audiences, []), "b")
        case "no such row":
            resume = Resume(head.horizon, head.token, head.audiences, "item", P1, [{"a": []}])
    [again, *chunks] = b.snapshot(resume=resume)
    assert not again.resumed
    assert keys(chunks) == ["a", "b", "c"]
    assert changes(chunks) == {}


@pytest.mark.spec("F1")
def test_pruning_what_the_snapshot_contained_does_not_hinder_going_on() -> None:
    server, _ = server_with("a", "b", "c")
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    server.prune(keep=0)
    [again, *chunks] = b.snapshot(resume=place(head, "b"))
    assert again.resumed and keys(chunks) == ["c"]


@pytest.mark.spec("F1")
def test_a_resumed_snapshot_answers_the_offers_anew() -> None:
    server, _ = server_with("a")
    b = File(server, "bob", "b")
    [head, *_] = b.snapshot()
    mine = b.action(30, insert("mine"))
    b.take(b.pull())
    b.ok(mine)
    offer = Offer(mine.record.id, mine.record.seed)
    [again, *_] = b.snapshot(offer, resume=place(head, "a"))
    assert again.accepted == [mine.record.id]


def test_the_clock_of_a_head_is_the_servers() -> None:
    clock = Clock()
    server = given(clock=clock)
    clock.now_ms += 5
    [head, *_] = File(server, "bob", "b").snapshot()
    assert head.now_ms == clock.now_ms
