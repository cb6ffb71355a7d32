"""Who sees and writes what: corrections denied, hidden rows, moves, joining and leaving."""

import pytest
from tests.replica.shop import (
    add,
    claim,
    copy,
    create_counter,
    create_project,
    create_task,
    create_todo,
    drop_counter,
    invite,
    remove_member,
    sort_in,
)

from synchrotron.errors import Offline


def corrections(wire):
    return [c for request in wire.sent for c in request.corrections]


@pytest.fixture
def hidden_world(make_world):
    """Alice alone sees `hidden`; Bob and Carol see `all` only."""
    return make_world({"alice": {"all", "hidden"}, "bob": {"all"}, "carol": {"all"}})


def see_the_same(world, counts, *replicas):
    """Convergence (S8): each replica holds the server's rows of its user's audiences."""
    for replica in replicas:
        readable = world.server.audiences[world.wires[replica].user]
        mine = [row for row in world.server.rows("counter") if row["audience_key"] in readable]
        assert counts(replica) == {row["id"]: row["n"] for row in mine}


# ---- corrections that are denied (S5) ----------------------------------------------


@pytest.mark.spec("S5", "S4")
def test_a_correction_that_the_server_denies_is_dropped_and_what_is_known_stands(world, counts):
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    b.run(add, id="x", by=10)  # first in order
    a.run(add, id="x", by=1)
    a.sync()
    # Bob's own action is stored; his correction of Alice's is not.
    world.server.policy = lambda user, op, table, row: user != "bob" or row["n"] != 11

    b.sync()

    assert len(corrections(world.wires[b])) == 1
    assert counts(b) == counts(world.server) == {"x": 1}
    b.sync()
    b.sync()
    assert len(corrections(world.wires[b])) == 1, "it is not sent again"


@pytest.mark.spec("S5")
def test_what_was_denied_to_one_is_corrected_by_another(world, counts):
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    world.server.policy = lambda user, op, table, row: user != "bob" or row["n"] != 11
    b.sync()
    assert counts(b) == {"x": 1}

    a.sync()
    world.settle(a, b, c)

    assert [counts(of) for of in (a, b, c, world.server)] == [{"x": 11}] * 4


@pytest.mark.spec("S5")
def test_what_was_denied_may_be_corrected_again_once_what_is_known_changes(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    world.server.policy = lambda user, op, table, row: user != "bob" or row["n"] not in (11, 100)
    parked = b.run(add, id="x", by=100)
    b.sync()
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    world.settle(a, b)  # what Bob may not correct, Alice does
    assert parked.outcome.state == "parked"
    assert counts(b) == counts(world.server) == {"x": 11}
    world.server.policy = None

    b.retry(parked.id)
    b.sync()

    assert counts(b) == counts(world.server) == {"x": 111}


# ---- rows that a user does not see (S6, S8) ----------------------------------------


@pytest.mark.spec("S6", "S8")
def test_a_replay_writes_nothing_in_an_audience_that_the_user_does_not_see(hidden_world, counts):
    world = hidden_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    b.run(add, id="x", by=1)  # makes Bob replay what comes now, with another result
    a.run(sort_in, id="y", by="x", limit=1, low="all", high="hidden")
    a.sync()
    world.wires[b].lose("", "request")
    with pytest.raises(Offline):
        b.sync()

    assert counts(b) == {"x": 1}, "before the server could deny it"
    assert {c.patch.audience for c in corrections(world.wires[b])} == {"all"}
    world.settle(a, b)
    see_the_same(world, counts, a, b)
    assert counts(a) == {"x": 1, "y": 1}


@pytest.mark.spec("S8", "S4")
def test_replicas_that_see_different_rows_converge_and_come_to_rest(hidden_world, counts):
    world = hidden_world
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="secret", scope="hidden", n=7)
    a.run(create_counter, id="x")
    world.settle(a, b, c)
    c.run(add, id="x", by=100)
    b.run(copy, source="secret", to="x")  # for Bob there is no secret
    a.run(copy, source="secret", to="x")
    b.run(add, id="x", by=1)

    world.settle(b, a, c)

    see_the_same(world, counts, a, b, c)
    assert "secret" not in counts(b)


@pytest.mark.spec("S6")
def test_nothing_of_a_hidden_audience_ever_comes_to_the_file(hidden_world, make_world):
    world = hidden_world
    a, b = world.synced("alice"), world.synced("bob", "b.db")
    a.run(create_counter, id="whispered", scope="hidden")
    a.run(create_counter, id="said")
    world.settle(a, b)
    b.close()
    content = b"".join(p.read_bytes() for p in world.folder.glob("b.db*"))
    assert b"said" in content
    assert b"whispered" not in content


@pytest.mark.spec("S6")
def test_a_user_may_be_the_first_in_a_new_audience(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    assert [row["id"] for row in rows(a, "project")] == ["p"], "before the server has answered"

    a.run(create_todo, project="p", text="Buy milk")
    world.settle(a, b)

    assert [row["text"] for row in rows(a, "todo")] == ["Buy milk"]
    assert rows(a, "project") == world.server.rows("project")
    assert rows(b, "project") == rows(b, "todo") == []


# ---- moves: the same row key in another audience (S9) -------------------------------


@pytest.mark.spec("S9", "S8")
def test_a_row_key_given_up_in_one_audience_can_be_used_in_another(make_world, counts):
    world = make_world({"alice": {"all", "club"}, "bob": {"all"}, "carol": {"club"}})
    a, b, c = (world.synced(user) for user in ("alice", "bob", "carol"))
    a.run(create_counter, id="x", n=5)
    world.settle(a, b, c)
    assert (counts(b), counts(c)) == ({"x": 5}, {})

    a.run(drop_counter, id="x")
    a.run(create_counter, id="x", n=6, scope="club")
    world.settle(a, b, c)

    assert (counts(a), counts(b), counts(c)) == ({"x": 6}, {}, {"x": 6})
    [row] = world.server.rows("counter")
    assert row["audience_key"] == "club"


@pytest.mark.spec("S9")
def test_a_row_key_lives_in_one_audience_at_a_time(make_world, counts):
    world = make_world({"alice": {"all", "club"}, "carol": {"club"}})
    a, c = world.synced("alice"), world.synced("carol")
    a.run(create_counter, id="x", n=5)
    a.sync()
    run = c.run(create_counter, id="x", scope="club")  # Carol does not see Alice's
    c.sync()
    assert (run.outcome.state, run.outcome.reason) == ("parked", "invalid")
    assert counts(c) == {}


@pytest.mark.spec("S9", "S7")
def test_a_replay_that_puts_the_row_into_another_audience_is_a_removal_and_an_addition(
    make_world, counts
):
    club = {"all", "low", "high"}
    world = make_world({"alice": club, "bob": club, "carol": {"low"}, "dora": {"high"}})
    a, b, c, d = (world.synced(user) for user in ("alice", "bob", "carol", "dora"))
    a.run(create_counter, id="x")
    world.settle(a, b, c, d)
    b.run(add, id="x", by=10)  # first in order, last to arrive
    a.run(sort_in, id="y", by="x", limit=10, low="low", high="high")
    world.settle(a, c, d)
    assert (counts(c), counts(d)) == ({"y": 0}, {})

    b.sync()

    row = world.server.rows("counter")[1]
    assert (row["id"], row["audience_key"], row["n"]) == ("y", "high", 10)
    world.settle(a, b, c, d)
    both = {"x": 10, "y": 10}
    assert [counts(r) for r in (a, b, c, d)] == [both, both, {}, {"y": 10}]
    _, _, patches = world.server.log()[-1]
    known = {target.audience: k.patch and k.patch.op for target, k in patches.items()}
    assert known == {"low": None, "high": "insert"}


# ---- joining and leaving (F6) -------------------------------------------------------


@pytest.mark.spec("F6")
def test_joining_brings_the_rows_and_their_history(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    a.run(create_todo, project="p", text="Buy milk")
    world.settle(a, b)
    assert rows(b, "todo") == []

    a.run(invite, project="p", user="bob")
    world.settle(a, b)

    for table in ("project", "project_member", "todo"):
        assert rows(b, table) == rows(a, table) == world.server.rows(table) != []
    assert [r.name for r in b.log()] == ["create_project", "create_todo", "invite"]
    b.run(create_todo, project="p", text="Buy bread")
    world.settle(b, a)
    assert len(rows(a, "todo")) == 2


@pytest.mark.spec("F6", "F2")
def test_joining_with_a_floor_brings_the_rows_as_they_stand_there(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    a.run(create_todo, project="p", text="below")
    world.settle(a)
    b.run(create_project, id="q")
    b.sync()
    b.prune()  # its floor is above Alice's actions
    a.run(create_todo, project="p", text="above")
    a.run(invite, project="p", user="bob")
    world.settle(a, b)

    for table in ("project", "project_member", "todo"):
        here = [r for r in rows(b, table) if r["audience_key"] == "project:p"]
        assert here == rows(a, table) != []
    assert [r.name for r in b.log()] == ["create_todo", "invite"]


@pytest.mark.spec("F6")
def test_where_the_servers_floor_lies_above_the_replicas_joining_is_a_rebase(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    a.run(create_todo, project="p", text="pruned")
    a.sync()
    b.run(create_project, id="q")
    b.sync()
    world.server.prune(1)
    pending = b.run(create_todo, project="q", text="mine")
    a.run(invite, project="p", user="bob")
    a.sync()

    report = b.sync()

    assert report.rebased == 1
    assert pending.outcome.state == "accepted"
    assert sorted(r["text"] for r in rows(b, "todo")) == ["mine", "pruned"]
    assert rows(b, "todo") == world.server.rows("todo")


@pytest.mark.spec("F6")
def test_leaving_takes_rows_patches_and_records_away(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob", "b.db")
    a.run(create_project, id="p")
    a.run(create_todo, project="p", text="confidential")
    a.run(invite, project="p", user="bob")
    b.run(create_project, id="q")
    world.settle(a, b)
    assert len(rows(b, "todo")) == 1

    a.run(remove_member, project="p", user="bob")
    world.settle(a, b)

    assert rows(b, "todo") == []
    assert [row["id"] for row in rows(b, "project")] == ["q"]
    assert [record.user for record in b.log()] == ["bob"]
    read = b._engine.store.writer.execute
    assert "confidential" not in str(list(read("SELECT * FROM synchrotron_action")))
    assert world.server.rows("todo") == rows(a, "todo") != []


@pytest.mark.spec("F6", "R3")
@pytest.mark.parametrize("synced", [True, False])
@pytest.mark.parametrize("answer", ["comes", "is lost"])
def test_who_leaves_by_an_own_action_did_what_it_did_and_is_told_so(project_world, synced, answer):
    """That its rows are out of sight now is no other effect."""
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    b.run(create_project, id="q")
    b.run(invite, project="q", user="alice")
    world.settle(a, b)
    a.run(create_project, id="p")
    if synced:
        a.sync()
    heard = []
    for event in ("accepted", "changed", "parked", "rejected"):
        a.on(event, heard.append)
    runs = [a.run(remove_member, project=project, user="alice") for project in ("p", "q")]
    if answer == "is lost":
        world.wires[a].lose("answer")
        with pytest.raises(Offline):
            a.sync()

    world.settle(a, b)

    outcomes = [run.outcome for run in runs]
    assert [(o.state, o.seq is not None) for o in outcomes] == [("accepted", True)] * 2
    assert [outcome for outcome in heard if outcome.id in {run.id for run in runs}] == outcomes


@pytest.mark.spec("F6")
def test_leaving_takes_rows_below_the_floor_away_too(hidden_world, counts):
    world = hidden_world
    a = world.synced("alice")
    a.run(create_counter, id="x", scope="hidden")
    a.run(create_counter, id="y")
    a.sync()
    a.prune()
    world.server.audiences["alice"].discard("hidden")

    a.sync()

    assert counts(a) == {"y": 0}


@pytest.mark.spec("F6")
def test_leaving_parks_what_is_pending_there(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    for project in "pq":
        a.run(create_project, id=project)
        a.run(invite, project=project, user="bob")
    world.settle(a, b)
    a.run(remove_member, project="p", user="bob")
    a.run(create_todo, project="q", text="Bob is behind, and so learns that he left")
    a.sync()
    left = b.run(create_todo, project="p", text="too late")
    kept = b.run(create_todo, project="q", text="in time")

    b.sync()

    assert (left.outcome.state, left.outcome.reason) == ("parked", "left")
    assert "project:p" in left.outcome.detail
    assert kept.outcome.state == "accepted"
    assert [r["project_id"] for r in rows(b, "todo")] == ["q", "q"]
    a.run(invite, project="p", user="bob")
    world.settle(a, b)
    b.retry(left.id)
    b.sync()
    assert left.outcome.state == "accepted"
    assert rows(b, "todo") == world.server.rows("todo")
    assert len(rows(b, "todo")) == 3


@pytest.mark.spec("F6", "H7")
def test_what_is_uploaded_into_an_audience_that_was_left_is_parked_as_denied(project_world, rows):
    world = project_world
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_project, id="p")
    a.run(invite, project="p", user="bob")
    world.settle(a, b)
    a.run(remove_member, project="p", user="bob")
    a.sync()
    run = b.run(create_todo, project="p", text="too late")
    b.sync()
    assert (run.outcome.state, run.outcome.reason) == ("parked", "denied")
    assert rows(b, "todo") == rows(b, "project") == world.server.rows("todo") == []


@pytest.mark.spec("F6")
def test_leaving_and_joining_again_brings_everything_back(hidden_world, counts):
    world = hidden_world
    a = world.synced("alice")
    a.run(create_counter, id="x", scope="hidden")
    own = a.run(add, id="x", by=2, scope="hidden")
    a.run(create_counter, id="y")
    a.sync()

    world.server.audiences["alice"].discard("hidden")
    a.sync()
    assert counts(a) == {"y": 0}
    assert own.outcome.state == "accepted", "hidden is not undone"
    assert [r.args["id"] for r in a.log()] == ["y"]
    world.server.audiences["alice"].add("hidden")
    a.sync()

    assert counts(a) == counts(world.server) == {"x": 2, "y": 0}
    assert own.outcome.state == "accepted"
    a.run(add, id="x", by=1, scope="hidden")
    a.sync()
    assert counts(world.server)["x"] == 3


@pytest.mark.spec("F6")
def test_an_answer_to_a_question_from_before_leaving_changes_nothing(hidden_world, counts):
    """It lists audiences that are not the replica's any more."""
    world = hidden_world
    a, b = world.synced("alice"), world.synced("alice")
    b.run(create_counter, id="x", scope="hidden")
    b.sync()
    engine, transport = a._engine, world.wires[a].connection
    old = engine.ask()
    old_answer = transport.exchange(old)
    world.server.audiences["alice"].discard("hidden")
    a.sync()

    engine.take(old, old_answer)

    assert counts(a) == {}
    a.sync()
    assert counts(a) == {}


# ---- declared audiences (A10) -------------------------------------------------------


@pytest.mark.spec("A10", "H7")
def test_a_declared_audience_in_which_the_user_may_not_write_is_denied(make_world):
    world = make_world({"alice": {"all"}, "bob": {"club"}})
    b = world.synced("bob")
    run = b.run(create_task, id="t")  # `all` is not Bob's
    b.sync()
    assert (run.outcome.state, run.outcome.reason) == ("parked", "denied")

    changes_nothing = b.run(claim, id="t")
    b.sync()
    assert (changes_nothing.outcome.state, changes_nothing.outcome.reason) == ("parked", "denied")
