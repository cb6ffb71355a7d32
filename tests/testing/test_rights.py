"""What a user may store, patch by patch."""

from typing import Any

import pytest
from tests.testing.by_hand import (
    P1,
    P2,
    File,
    correct,
    delete,
    given,
    insert,
    numbers,
    removal,
    update,
)

from synchrotron.core.ids import action_id
from synchrotron.core.messages import (
    Denied,
    RowPatch,
)


@pytest.mark.spec("S9")
@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (
            RowPatch("item", ["z"], P2, "insert", insert("z").values),
            "is project:p1, not project:p2",
        ),
        (update("x", in_=P2, n=5), "project:p2 has no such row"),
        (delete("x", in_=P2), "project:p2 has no such row"),
        (update("nowhere", n=5), "project:p1 has no such row"),
        (update("x", project_id="p2"), "is project:p2, not project:p1"),
    ],
)
def test_a_forged_audience_is_denied(patch: RowPatch, reason: str) -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(made := a.action(1, insert("x")))
    answer = a.send(sent := a.action(2, patch))
    assert isinstance(answer, Denied)
    assert (answer.action_id, answer.table, answer.key) == (sent.record.id, "item", patch.key)
    assert reason in answer.reason
    corrections = [correct(made, patch)]
    if patch.op == "insert":
        assert a.ok(corrections=corrections).corrected[0].seq is None


@pytest.mark.spec("S9")
def test_a_row_moves_by_delete_and_insert_and_a_later_patch_needs_its_new_audience() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x", 1)))
    a.ok(a.action(2, delete("x"), insert("x", 2, in_=P2)), a.action(3, update("x", in_=P2, n=3)))
    assert [(r["n"], r["audience_key"]) for r in server.rows("item")] == [(3, P2)]
    # It has a history in its old audience, where it is not: the patch has no effect.
    a.ok(a.action(4, update("x", n=4)))
    assert numbers(server) == {"x": 3}


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (RowPatch("users", ["x"], P1, "delete"), "users is not a table"),
        (update("x", colour=1), "no column colour"),
        (update("x", audience_key="project:p2"), "no column audience_key"),
        (update("x", n="many"), "column n: 'many' is not an integer"),
        (update("x", id="y"), "does not change a key"),
        (RowPatch("item", ["x", "y"], P1, "delete"), "other columns: id"),
        (RowPatch("item", [["x"]], P1, "delete"), "is not text"),
        (RowPatch("item", [None], P1, "delete"), "a key has no NULL"),
        (RowPatch("item", ["y"], P1, "insert", insert("x").values), "the values of its key"),
        (RowPatch("item", ["x"], P1, None), "nothing to remove"),
    ],
)
def test_a_patch_that_is_none_of_its_tables_is_denied(patch: RowPatch, reason: str) -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(made := a.action(1, insert("x")))
    answer = a.send(a.action(2, patch))
    assert isinstance(answer, Denied)
    assert reason in answer.reason
    if patch.op:
        assert a.ok(corrections=[correct(made, patch)]).corrected[0].seq is None
    assert numbers(server) == {"x": 0}


def test_two_patches_of_one_row_in_an_action_are_denied() -> None:
    server = given()
    a = File(server, "alice", "a")
    answer = a.send(a.action(1, insert("x"), insert("x", 2)))
    assert isinstance(answer, Denied)
    assert "one patch" in answer.reason


def test_two_actions_never_share_an_order_key() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1))
    assert isinstance(a.send(a.action(1)), Denied)


@pytest.mark.spec("H6")
def test_a_denied_upload_names_the_first_action_that_may_not_write_and_stores_nothing() -> None:
    server = given({"alice": {P1}, "bob": {P2}})
    a = File(server, "alice", "a")
    answer = a.send(
        a.action(1, insert("x")),
        wrong := a.action(2, insert("y"), insert("z", in_=P2)),
        a.action(3, insert("w", in_=P2)),
    )
    assert isinstance(answer, Denied)
    assert (answer.action_id, answer.table, answer.key) == (wrong.record.id, "item", ["z"])
    assert "alice may not write in project:p2" in answer.reason
    assert (server.history, server.rows("item")) == ([], [])
    assert a.pull().horizon == 0


@pytest.mark.spec("H6")
def test_a_policy_judges_rows_as_they_stood_at_their_place() -> None:
    server = given()
    asked: list[Any] = []

    def policy(user: str, op: str, table: str, row: Any) -> bool:
        asked.append((user, op, table, row["n"], row["audience_key"]))
        return bool(row["n"] < 5)

    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x", 1)), a.action(9, update("x", n=9)))
    server.policy = policy
    a.ok(a.action(5, update("x", n=2)))
    assert asked == [("alice", "update", "item", n, P1) for n in (1, 2)]
    assert isinstance(a.send(a.action(6, update("x", n=5))), Denied)
    assert isinstance(a.send(a.action(10, delete("x"))), Denied)
    a.ok(a.action(7, delete("x")))


@pytest.mark.spec("H4a")
def test_unknown_and_invisible_actions_are_not_corrected_and_answered_alike() -> None:
    server = given({"alice": {P1, P2}, "bob": {P2}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(hidden := a.action(1, insert("x")))
    b.pull()
    unknown = action_id(a.client, 99)
    patch = insert("y", in_=P2)
    answer = b.ok(corrections=[correct(hidden, patch), correct(unknown, patch)])
    assert [corrected.seq for corrected in answer.corrected] == [None, None]
    assert numbers(server) == {"x": 0}


@pytest.mark.spec("S5")
def test_a_correction_that_a_right_forbids_is_denied_and_refuses_nothing() -> None:
    server = given()
    server.policy = lambda user, op, table, row: user != "bob" or row["audience_key"] != P1
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(sent := a.action(1, insert("x", 1), insert("y", 1, in_=P2)))
    b.pull()
    answer = b.ok(
        b.action(2, insert("z", in_=P2)),
        corrections=[
            correct(sent, insert("x", 2)),
            correct(sent, insert("y", 2, in_=P2)),
        ],
    )
    assert [corrected.seq for corrected in answer.corrected] == [None, 2]
    answer = b.ok(corrections=[correct(sent, removal("x"))])
    assert [corrected.seq for corrected in answer.corrected] == [None]
    assert numbers(server) == {"x": 1, "y": 2, "z": 0}


@pytest.mark.spec("A10")
def test_a_patch_outside_the_declared_audiences_is_denied_as_a_correction_too() -> None:
    server = given()
    a = File(server, "alice", "a")
    answer = a.send(a.action(1, insert("x", in_=P2), audiences=(P1,)))
    assert isinstance(answer, Denied)
    assert "declares (A10)" in answer.reason
    a.ok(sent := a.action(2, insert("x"), audiences=(P1,)))
    assert a.ok(corrections=[correct(sent, insert("y", in_=P2))]).corrected[0].seq is None
