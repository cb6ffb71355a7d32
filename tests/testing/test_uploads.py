"""Uploads are stored whole or not at all; corrections stay in place."""

from types import SimpleNamespace
from typing import Any

import pytest
from tests.servers import new_server
from tests.testing.by_hand import (
    NOW_MS,
    P1,
    P2,
    Clock,
    File,
    correct,
    create_project,
    delete,
    given,
    ids,
    insert,
    membership,
    numbers,
    removal,
    row,
    update,
)

from synchrotron.app.schema import read_schema
from synchrotron.core.messages import (
    Behind,
    Invalid,
    RowPatch,
)


@pytest.mark.spec("H1", "H2")
def test_an_upload_is_stored_in_one_commit_and_reaches_others() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    first, second = a.action(1, insert("x", 1)), a.action(2, update("x", n=2))

    answer = a.ok(first, second)
    assert (answer.accepted, answer.moved) == ([1, 2], {})
    assert answer.download.events == []
    assert (answer.download.horizon, answer.download.audiences) == (2, [P1, P2])
    assert answer.now_ms == NOW_MS
    assert server.rows("item") == [
        {"id": "x", "project_id": "p1", "n": 2, "place": None, "audience_key": "project:p1"}
    ]

    download = b.pull()
    assert ids(download.events) == [first.record.id, second.record.id]
    [patch] = download.events[1].patches
    assert (patch.op, patch.values, patch.seq, patch.basis) == ("update", {"n": 2}, 2, 2)
    assert download.token == answer.download.token
    assert b.pull().events == []


@pytest.mark.spec("H4")
def test_a_retry_is_answered_with_the_stored_record() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.send(first := a.action(1, insert("x")), take=False)
    stamped_anew = a.action(7, insert("x"), n=1)
    answer = a.ok(stamped_anew)
    assert answer.accepted == [1]
    assert answer.moved == {first.record.id: first.record.order_key}
    assert answer.corrected == []
    assert (answer.download.horizon, len(server.history)) == (1, 1)


@pytest.mark.spec("H4")
def test_what_a_retry_changes_is_taken_as_corrections() -> None:
    server = given({"alice": {P1, P2}})
    a = File(server, "alice", "a")
    sent = a.action(1, insert("x", 1), insert("y"), insert("hidden", in_=P2))
    a.send(sent, take=False)
    server.audiences["alice"].discard(P2)
    answer = a.ok(a.action(1, insert("x", 2), insert("z"), n=1))
    assert [(c.key, c.audience, c.seq) for c in answer.corrected] == [
        (["x"], P1, 2),
        (["z"], P1, 3),
        (["y"], P1, 4),
    ]
    assert numbers(server) == {"hidden": 0, "x": 2, "z": 0}
    assert [(p.key, p.op) for e in answer.download.events for p in e.patches] == []


@pytest.mark.spec("S3", "H5")
def test_a_late_action_folds_in_place_and_corrections_bring_its_effect_through() -> None:
    """The lost update: +1 and +1, then a late +10 whose author knew of neither."""
    server = given()
    a, b, c = (File(server, u, x) for u, x in (("alice", "a"), ("bob", "b"), ("alice", "c")))
    a.ok(a.action(1, insert("x", 0)))
    b.pull(), c.pull()
    a.ok(one := a.action(10, update("x", n=1)))
    b.pull()
    b.ok(two := b.action(20, update("x", n=2)))

    late = c.action(5, update("x", n=10))
    assert isinstance(c.send(late), Behind)
    answer = c.ok(
        late, corrections=[correct(one, update("x", n=11)), correct(two, update("x", n=12))]
    )
    assert numbers(server) == {"x": 12}
    assert [(corrected.action_id, corrected.seq) for corrected in answer.corrected] == [
        (one.record.id, 5),
        (two.record.id, 6),
    ]
    assert answer.accepted == [4]  # seqs rise with the order, so nobody gains standing

    events = a.pull().events
    assert ids(events) == [late.record.id, one.record.id, two.record.id]
    assert [(e.seq, e.patches[0].seq, e.patches[0].values) for e in events] == [
        (4, 4, {"n": 10}),
        (2, 5, {"n": 11}),
        (3, 6, {"n": 12}),
    ]


@pytest.mark.spec("H5")
def test_a_late_action_alone_changes_only_its_place_in_history() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x", 1)), a.action(9, update("x", n=9)))
    a.ok(a.action(5, update("x", n=5, place=5)))
    assert [(r["n"], r["place"]) for r in server.rows("item")] == [(9, 5)]
    a.ok(a.action(7, delete("x")))
    assert numbers(server) == {}
    a.ok(a.action(8, insert("x", 3)))
    assert numbers(server) == {"x": 9}


def test_a_removal_takes_a_patch_out_of_history_and_is_told() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(made := a.action(1, insert("x", 1)), gone := a.action(2, delete("x")))
    b.pull()
    b.ok(corrections=[correct(gone, removal("x"))])
    assert numbers(server) == {"x": 1}
    [event] = a.pull().events
    assert event.record == gone.record
    assert [(p.op, p.seq) for p in event.patches] == [(None, 3)]
    b.ok(corrections=[correct(made, removal("x"))])
    assert numbers(server) == {}


@pytest.mark.spec("S9")
def test_an_end_state_with_a_row_in_two_audiences_is_invalid() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x")))
    answer = a.send(a.action(2, insert("x", in_=P2)))
    assert isinstance(answer, Invalid)
    assert (answer.table, answer.key) == ("item", ["x"])
    assert "several audiences" in answer.reason


@pytest.mark.spec("H1")
def test_an_invalid_upload_names_the_first_action_whose_prefix_is_invalid() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x", place=1)))
    answer = a.send(
        a.action(2, insert("y", place=2)),
        wrong := a.action(3, insert("z", place=1)),
        a.action(4, insert("w", -1)),
    )
    assert isinstance(answer, Invalid)
    assert (answer.action_id, answer.table, answer.key) == (wrong.record.id, "item", ["z"])
    assert "UNIQUE constraint failed: item.place" in answer.reason
    assert numbers(server) == {"x": 0}


@pytest.mark.spec("H5")
def test_only_the_end_state_has_to_satisfy_the_constraints() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x", place=1), insert("y", place=2)))
    a.ok(a.action(2, update("x", place=2), update("y", place=1)))  # a swap
    assert {r["id"]: r["place"] for r in server.rows("item")} == {"x": 2, "y": 1}
    a.ok(a.action(3, insert("z", place=1)), a.action(4, update("y", place=3)))
    assert {r["id"]: r["place"] for r in server.rows("item")} == {"x": 2, "y": 3, "z": 1}


@pytest.mark.spec("H5")
@pytest.mark.parametrize(
    ("patches", "named", "reason"),
    [
        ([insert("x", -1)], ["x"], "CHECK constraint failed"),
        (
            [RowPatch("item", ["x"], P1, "insert", {"id": "x", "project_id": "p1", "n": None})],
            ["x"],
            "NOT NULL",
        ),
        ([membership("m", "p1", "bob")], ["m"], "project_id = 'p1' is in no row of project"),
    ],
)
def test_a_violated_constraint_is_invalid(patches: list[RowPatch], named: Any, reason: str) -> None:
    server = given()
    a = File(server, "alice", "a")
    answer = a.send(a.action(1, *patches))
    assert isinstance(answer, Invalid)
    assert (answer.key, reason in answer.reason) == (named, True)


FAMILY = SimpleNamespace(
    schema=read_schema("""
        CREATE TABLE parent (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL);
        CREATE TABLE child (
            id TEXT PRIMARY KEY, parent TEXT REFERENCES parent (id), audience_key TEXT NOT NULL
        );
    """),
    audiences="SELECT id AS user_id, audience_key FROM child",
    migrations=(),
)


@pytest.mark.spec("A9", "H6")
def test_who_takes_a_parent_away_is_told_nothing_of_the_children_that_others_have() -> None:
    server = new_server(FAMILY, {"alice": {P1}, "mallory": {P2}}, Clock())
    a, m = File(server, "alice", "a"), File(server, "mallory", "b")
    a.ok(a.action(1, row("parent", P1, id="p", audience_key=P1)))
    m.ok(m.action(2, row("child", P2, id="patient", parent="p", audience_key=P2)))
    answer = a.send(a.action(3, RowPatch("parent", ["p"], P1, "delete")))
    assert isinstance(answer, Invalid)
    assert (answer.table, answer.key) == ("parent", ["p"])
    assert "patient" not in answer.reason


@pytest.mark.spec("A8")
def test_cascades_are_patches_and_do_not_happen_on_the_server() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(create_project(a, 1, "p1", "alice", "bob"))
    no_project = RowPatch("project", ["p1"], P1, "delete")
    no_member = [
        RowPatch("project_member", [f"p1-{user}"], P1, "delete") for user in ("alice", "bob")
    ]
    answer = a.send(a.action(2, no_project, no_member[0]))
    assert isinstance(answer, Invalid)
    assert (answer.table, answer.key) == ("project", ["p1"])
    a.ok(a.action(3, RowPatch("project", ["p1"], P1, "update", {"name": "new"})))
    assert len(server.rows("project_member")) == 2
    a.ok(a.action(4, no_project, *no_member))
    assert server.rows("project_member") == []


@pytest.mark.spec("H1")
def test_a_correction_that_is_valid_only_with_an_action_is_accepted_with_it() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(one := a.action(1, insert("x", place=1)), a.action(2, insert("y", place=2)))
    answer = a.ok(
        a.action(3, update("y", place=3)), corrections=[correct(one, insert("x", place=2))]
    )
    assert answer.corrected[0].seq
    assert {r["id"]: r["place"] for r in server.rows("item")} == {"x": 2, "y": 3}


@pytest.mark.spec("H1")
def test_corrections_that_no_action_makes_valid_are_denied_and_refuse_nothing() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(
        x := a.action(1, insert("x", place=1)),
        y := a.action(2, insert("y", place=2)),
        a.action(3, insert("z", place=3)),
    )
    answer = a.ok(
        a.action(4, update("z", place=4)),
        corrections=[
            correct(y, insert("y", place=3)),  # fits once z has moved
            correct(x, insert("x", -1, place=1)),  # never fits
        ],
    )
    assert [corrected.seq is not None for corrected in answer.corrected] == [True, False]
    assert {r["id"]: (r["n"], r["place"]) for r in server.rows("item")} == {
        "x": (0, 1),
        "y": (0, 3),
        "z": (0, 4),
    }


@pytest.mark.spec("H1")
def test_the_action_that_spoils_an_upload_is_named_where_corrections_needed_another() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(one := a.action(1, insert("x", place=1)), a.action(2, insert("y", place=2)))
    answer = a.send(
        a.action(3, update("y", place=3)),
        wrong := a.action(4, insert("z", place=3)),
        corrections=[correct(one, insert("x", place=2))],
    )
    assert isinstance(answer, Invalid)
    assert answer.action_id == wrong.record.id


@pytest.mark.spec("H2")
def test_corrections_may_rest_on_each_other() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(one := a.action(1), two := a.action(2))
    answer = a.ok(
        corrections=[correct(two, update("x", n=2)), correct(one, insert("x", 1))],
    )
    assert [c.seq for c in answer.corrected] == [4, 3]
    assert numbers(server) == {"x": 2}
    forged = RowPatch("item", ["y"], P2, "insert", insert("y").values)
    answer = a.ok(corrections=[correct(two, update("y", in_=P2, n=2)), correct(one, forged)])
    assert [c.seq for c in answer.corrected] == [None, None]


@pytest.mark.spec("H1", "S7")
def test_a_correction_may_rest_on_an_action_of_its_upload() -> None:
    """A late insert gives an effect to an action that had none, as long as both are stored."""
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    b.ok(idle := b.action(5, audiences=(P1,)))
    a.pull()
    late = a.action(1, insert("x", 1))
    answer = a.ok(late, corrections=[correct(idle, update("x", n=2))])
    assert [corrected.seq for corrected in answer.corrected] == [3]
    assert numbers(server) == {"x": 2}
    answer = a.ok(corrections=[correct(idle, update("y", n=2))])
    assert answer.corrected[0].seq is None


@pytest.mark.spec("S5")
def test_a_denied_correction_leaves_no_trace_in_how_actions_are_judged() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(made := a.action(1, insert("x", 1)))
    server.policy = lambda user, op, table, row: row["n"] < 5
    answer = a.ok(a.action(2, update("x", n=2)), corrections=[correct(made, insert("x", 9))])
    assert answer.corrected[0].seq is None
    assert numbers(server) == {"x": 2}


@pytest.mark.spec("S9", "S8")
def test_a_row_key_in_two_audiences_for_a_while_is_invalid_though_the_end_state_is_not() -> None:
    """In history it is in both between two actions, which no replica's table can hold."""
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x")))
    answer = a.send(
        between := a.action(2, insert("x", in_=P2)),
        a.action(3, delete("x", in_=P2)),
    )
    assert isinstance(answer, Invalid)
    assert answer.action_id == between.record.id
    assert "several audiences" in answer.reason


@pytest.mark.spec("S9", "S8")
def test_a_correction_that_puts_a_key_into_a_second_audience_for_a_while_is_denied() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    wander, sweep = a.action(1, insert("x")), a.action(2, insert("y"))
    a.ok(wander, sweep)
    b.pull()
    answer = b.ok(
        corrections=[
            correct(wander, insert("x", in_=P2)),
            correct(sweep, delete("x", in_=P2)),
        ]
    )
    assert [corrected.seq for corrected in answer.corrected] == [None, None]
