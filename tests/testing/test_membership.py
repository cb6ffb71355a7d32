"""Who may read and write in which audience."""

from types import SimpleNamespace

import pytest
from tests.servers import new_server
from tests.testing.by_hand import (
    APP,
    P1,
    P2,
    Clock,
    File,
    create_project,
    given,
    ids,
    insert,
    membership,
    row,
)

from synchrotron.core.messages import (
    Denied,
    RowPatch,
)


@pytest.mark.spec("H7")
def test_a_user_receives_patches_in_their_audiences_and_the_records_of_declared_ones() -> None:
    server = given({"alice": {P1, P2}, "bob": {P2}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    hidden = a.action(1, insert("x"), audiences=(P1,))
    split = a.action(2, insert("y"), insert("z", in_=P2))
    declared = a.action(3, audiences=(P2,))
    a.ok(hidden, split, declared)
    one, two = b.pull().events
    assert (one.record, [p.key for p in one.patches]) == (split.record, [["z"]])
    assert (two.record, two.patches) == (declared.record, [])
    assert ids(File(server, "alice", "c").pull().events) == [
        hidden.record.id,
        split.record.id,
        declared.record.id,
    ]


def test_an_author_receives_their_own_actions_even_without_a_patch() -> None:
    server = given()
    a, a2 = File(server, "alice", "a"), File(server, "alice", "c")
    a.ok(sent := a.action(1))
    assert ids(a2.pull().events) == [sent.record.id]
    assert File(server, "bob", "b").pull().events == []


@pytest.mark.spec("H7")
def test_a_declared_audience_must_be_one_in_which_the_user_may_write() -> None:
    server = given({"alice": {P1}, "bob": {P2}})
    a = File(server, "alice", "a")
    answer = a.send(a.action(1, audiences=(P1, P2)))
    assert isinstance(answer, Denied)
    assert "declares project:p2" in answer.reason


@pytest.mark.spec("H7a")
def test_a_user_creates_a_project_and_makes_herself_its_member_in_one_action() -> None:
    server = new_server(APP, clock=Clock())
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    answer = a.ok(create_project(a, 1, "p1", "alice"), a.action(2, insert("x")))
    assert answer.download.audiences == [P1]
    assert b.pull().audiences == []
    assert isinstance(b.send(b.action(3, insert("y"))), Denied)
    a.ok(a.action(3, membership("m", "p1", "bob")))
    assert b.pull().audiences == [P1]
    b.ok(b.action(4, insert("y")))


@pytest.mark.spec("H7a")
def test_an_audience_without_members_belongs_to_its_creator() -> None:
    server = new_server(APP, clock=Clock())
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    assert a.ok(create_project(a, 1, "p1")).download.audiences == [P1]
    a.ok(a.action(2, insert("x")))
    b.pull()
    assert isinstance(b.send(b.action(3, insert("y"))), Denied)
    a.ok(a.action(4, membership("m", "p1", "bob")))  # from now on it is its members'
    assert a.pull().audiences == []
    assert isinstance(a.send(a.action(5, insert("z"))), Denied)


@pytest.mark.spec("H7a")
def test_nobody_moves_into_an_audience_that_others_left() -> None:
    server = new_server(APP, clock=Clock())
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(create_project(a, 1, "p1", "alice"))
    gone = RowPatch("project_member", ["p1-alice"], P1, "delete")
    a.ok(a.action(2, gone, insert("x")))  # rights are those before the action
    assert a.pull().audiences == []
    for file in (a, b):
        assert isinstance(file.send(file.action(3, membership("m", "p1", file.user))), Denied)
    server.prune(keep=0)
    b.start_from_snapshot()
    assert isinstance(b.send(b.action(9, membership("m", "p1", "bob"))), Denied)


@pytest.mark.spec("H7a")
def test_each_action_is_judged_after_the_ones_before_it() -> None:
    server = new_server(APP, clock=Clock())
    a = File(server, "alice", "a")
    gone = RowPatch("project_member", ["p1-alice"], P1, "delete")
    answer = a.send(
        create_project(a, 1, "p1", "alice"), a.action(2, gone), late := a.action(3, insert("x"))
    )
    assert isinstance(answer, Denied)
    assert answer.action_id == late.record.id
    assert server.rows("project") == []
    assert a.pull().audiences == []


@pytest.mark.spec("H7a")
def test_given_sets_are_the_whole_membership() -> None:
    server = given({"bob": {P2}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    assert a.ok(create_project(a, 1, "p1", "bob")).download.audiences == [P1]
    assert b.pull().audiences == [P2]
    server.audiences["bob"].add(P1)
    assert (a.pull().audiences, b.pull().audiences) == ([], [P1, P2])
    server.audiences["bob"].clear()
    assert (a.pull().audiences, b.pull().audiences) == ([], [])
    assert isinstance(a.send(a.action(2, insert("x"))), Denied)
    server.audiences["carol"].add(P1)
    assert File(server, "carol", "c").pull().audiences == [P1]


@pytest.mark.spec("H7a")
def test_without_audiences_every_user_has_exactly_their_own() -> None:
    app = SimpleNamespace(schema=APP.schema, audiences=None, migrations=())
    server = new_server(app, clock=Clock())
    a = File(server, "alice", "a")
    note = {"id": "n", "due": None, "cost": None, "done": False}
    mine, yours, new = (
        row("note", audience, audience_key=audience, **note)
        for audience in ("user:alice", "user:bob", "team")
    )
    assert a.ok(a.action(1, mine)).download.audiences == ["user:alice"]
    assert isinstance(a.send(a.action(2, yours)), Denied)
    assert isinstance(a.send(a.action(3, new)), Denied)
