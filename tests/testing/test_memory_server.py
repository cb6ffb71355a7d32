"""What a test sees of the server, and does to it."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.servers import new_server
from tests.testing.by_hand import (
    APP,
    P1,
    Clock,
    File,
    correct,
    create_project,
    delete,
    given,
    ids,
    insert,
    numbers,
    row,
    update,
)

from synchrotron.core.messages import (
    Denied,
    Epoch,
    Offer,
    Ok,
    Rebase,
)
from synchrotron.errors import UsageError
from synchrotron.testing import MemoryServer


def test_rows_are_shown_as_python_values_by_key() -> None:
    server = given({"alice": {"diary"}})
    a = File(server, "alice", "a")
    due = "2026-01-02T03:04:05.000006Z"
    note = {"id": "n2", "due": due, "cost": "10.50", "done": True, "audience_key": "diary"}
    a.ok(a.action(1, row("note", "diary", **note), row("note", "diary", **{**note, "id": "n1"})))
    one, two = server.rows("note")
    assert (one["id"], two["id"], two["done"]) == ("n1", "n2", True)
    assert two["due"].isoformat() == "2026-01-02T03:04:05.000006+00:00"
    assert str(two["cost"]) == "10.50"


def test_history_and_log_hold_what_was_accepted() -> None:
    server = given()
    a = File(server, "alice", "a")
    late, early = a.action(9, insert("x")), a.action(3, insert("y"))
    a.ok(late)
    a.ok(early)
    assert [record.id for record in server.history] == [late.record.id, early.record.id]
    assert [(record.id, seq) for record, seq, _ in server.log()] == [
        (early.record.id, 2),
        (late.record.id, 1),
    ]
    [(_, _, patches)] = server.log()[1:]
    assert [(target.key, known.seq) for target, known in patches.items()] == [(("x",), 1)]


def test_memberships_can_be_set_only_where_they_were_given() -> None:
    with pytest.raises(UsageError, match="give MemoryServer audiences"):
        _ = new_server(APP).audiences


@pytest.mark.spec("H7a")
@pytest.mark.parametrize("put_in", ["at first", "later"])
def test_an_audience_that_was_ever_in_a_given_set_has_had_a_member(put_in: str) -> None:
    sets = {"alice": {P1} if put_in == "at first" else set[str](), "bob": set()}
    server = MemoryServer(APP, sets)
    server.audiences["alice"].add(P1)
    server.audiences["alice"].discard(P1)  # before anybody has asked
    b = File(server, "bob", "b")
    answer = b.send(b.action(1, row("project", P1, id="p1", name="mine now")))
    assert isinstance(answer, Denied)


def test_an_exception_leaves_the_server_as_it_was() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x")))

    def broken(*_: Any) -> bool:
        raise ZeroDivisionError

    server.policy = broken
    request = a.request(a.action(2, insert("y")))
    with pytest.raises(ZeroDivisionError):
        a.transport.exchange(request)
    server.policy = None
    assert numbers(server) == {"x": 0}
    assert isinstance(a.transport.exchange(request), Ok)
    assert numbers(server) == {"x": 0, "y": 0}


@pytest.mark.spec("H11")
def test_a_restored_server_is_a_new_epoch_for_whoever_knows_more() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(first := a.action(1, insert("x")))
    b.pull()
    backup = server.backup()
    a.earlier = a.earlier[-1:]
    a.ok(lost := a.action(2, insert("y")))
    a.earlier = a.earlier[-1:]
    a.pull()
    a.earlier = a.earlier[-1:]
    server.restore(backup)
    assert numbers(server) == {"x": 0}
    assert [record.id for record in server.history] == [first.record.id]

    assert isinstance(a.send(a.action(3)), Epoch)
    offers = [Offer(s.record.id, s.record.seed) for s in (first, lost)]
    head = a.snapshot(*offers)[0]
    assert head.accepted == [first.record.id]
    a.cursor, a.token, a.floor = head.horizon, head.token, head.floor
    a.ok(lost)  # under its old id
    assert ids(b.pull().events) == [lost.record.id]


@pytest.mark.spec("H11")
def test_an_equal_seq_of_another_history_is_a_new_epoch_too() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    backup = server.backup()
    a.ok(a.action(1, insert("x")))
    server.restore(backup)
    b.ok(b.action(1, insert("y")))
    assert a.cursor == b.cursor
    assert isinstance(a.send(), Epoch)
    a.token = ""
    assert isinstance(a.send(), Epoch)


@pytest.mark.spec("F3", "F5")
def test_pruning_changes_no_row_and_sends_replicas_before_it_to_rebase() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(a.action(1, insert("x", 1), insert("y")), a.action(2, update("x", n=2)))
    a.ok(a.action(3, delete("y")), last := a.action(4, update("x", n=4)))
    before = server.rows("item")
    assert server.prune(keep=1) == 3
    assert server.rows("item") == before
    assert server.prune(keep=1) == 0
    assert [record.id for record, _, _ in server.log()] == [last.record.id]
    assert len(server.history) == 4
    assert isinstance(b.send(), Rebase)
    assert isinstance(b.send(b.action(9, insert("z"))), Rebase)
    head = b.start_from_snapshot()
    assert head.server_floor
    b.ok(b.action(9, update("x", n=9)))
    a.pull()
    a.ok(a.action(8, update("x", n=8)))
    assert numbers(server) == {"x": 9}


@pytest.mark.spec("F3")
def test_a_replica_that_missed_what_was_pruned_is_sent_to_rebase() -> None:
    """It joined nothing: that its cursor lies before what was pruned is all that tells."""
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(a.action(1, insert("x")))
    b.pull()
    a.ok(a.action(2, update("x", n=2)))
    server.prune(keep=0)
    assert isinstance(b.send(), Rebase)
    assert isinstance(b.send(b.action(9, insert("z"))), Rebase)


@pytest.mark.spec("F5")
def test_pruning_everything_keeps_rows_that_later_actions_change() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(made := a.action(1, insert("x", 1)))
    server.prune(keep=0)
    a.ok(a.action(2, update("x", place=2)), corrections=[correct(made, insert("x", 7))])
    [x] = server.rows("item")
    assert (x["n"], x["place"]) == (1, 2)


def test_an_upload_looks_only_at_what_is_new_and_at_the_rows_it_touches() -> None:
    """Counted, not timed: how many actions and patches are read behind a long history."""
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(
        *(
            a.action(ms, insert(f"x{ms}"), update("hot", n=ms) if ms else insert("hot"))
            for ms in range(3000)
        )
    )
    b.pull()
    state = server._state
    read: list[object] = []

    class Counted(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            read.append(key)
            return super().__getitem__(key)

    state.actions = Counted(state.actions)
    b.ok(b.action(4000, update("hot", n=7), insert("new")))
    a.pull()
    assert len(read) < 30


@pytest.mark.spec("H11")
def test_a_backup_stays_as_it_was() -> None:
    server = new_server(APP, clock=Clock())
    a = File(server, "alice", "a")
    a.ok(create_project(a, 1, "p1", "alice"))
    backup = server.backup()
    for n in (2, 3):
        file = File(server, "alice", str(n))
        file.pull()
        file.ok(file.action(2, insert("x", n)))
        assert numbers(server) == {"x": n}
        server.restore(backup)
        assert server.rows("item") == []
    assert File(server, "bob", "b").pull().audiences == []


def test_a_server_may_be_used_from_several_threads() -> None:
    server = given()

    def work(letter: str) -> None:
        file = File(server, "alice", letter)
        for i in range(20):
            pending = file.action(100 * i, insert(f"{letter}{i}"))
            while not isinstance(file.send(pending), Ok):
                time.sleep(0.0001)  # behind, or another holds a lease

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(server.rows("item")) == 80
