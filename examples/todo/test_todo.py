"""How such an application is tested: with a server in memory and replicas of several users.

The fixtures `memory_server` and `open_replica` come with the package's pytest plugin, which also
turns strict mode on: an action that reaches for the clock or for chance fails here.
"""

import pytest
import todo

from synchrotron.testing import Simulation, check_purity


@pytest.fixture
def home(open_replica):
    """Alice's and Bob's replicas with a project that they share."""
    alice, bob = open_replica("alice"), open_replica("bob")
    project = alice.run(todo.create_project, name="Home").result
    alice.run(todo.invite, project=project, user="bob")
    alice.sync(), bob.sync()
    return alice, bob, project


def texts(replica):
    return [row["text"] for row in replica.query("SELECT text FROM todo ORDER BY made_at")]


def test_what_one_member_adds_the_other_sees_and_a_stranger_does_not(home, open_replica):
    alice, bob, project = home
    alice.run(todo.add, project=project, text="Buy milk")
    eve = open_replica("eve")
    alice.sync(), bob.sync(), eve.sync()
    assert texts(bob) == ["Buy milk"]
    assert texts(eve) == [] and eve.query("SELECT * FROM project") == []


def test_of_two_who_finish_the_same_offline_the_later_is_told(home):
    alice, bob, project = home
    milk = alice.run(todo.add, project=project, text="Buy milk").result
    alice.sync(), bob.sync()
    first = bob.run(todo.finish, project=project, todo=milk)
    second = alice.run(todo.finish, project=project, todo=milk)
    alice.sync(), bob.sync(), alice.sync()  # whoever syncs first
    assert first.outcome.state == "accepted"
    assert second.outcome.state == "rejected"
    assert "bob had done it already" in second.outcome.detail
    for replica in (alice, bob):
        assert [row["done_by"] for row in replica.query("SELECT done_by FROM todo")] == ["bob"]


def test_a_member_is_invited_once(home):
    alice, _, project = home
    with pytest.raises(todo.Refused, match="a member already"):
        alice.run(todo.invite, project=project, user="bob")


def test_the_actions_are_deterministic(home):
    alice, _, project = home
    check_purity(alice, todo.add, project=project, text="Buy milk")
    check_purity(alice, todo.create_project, name="Garden")


def test_random_histories_break_no_rule():
    lost = "SELECT * FROM todo WHERE project_id NOT IN (SELECT id FROM project)"
    Simulation(todo.app, seed=7, replicas=3, steps=60, invariants=[lost]).run()


# ---- what a simulation runs: arguments for each action, from the rows of the replica ------


@todo.create_project.sample
def _(rng, query):
    return {"name": rng.choice(["Home", "Garden"])}


def of_a_project(rng, query):
    projects = [row["id"] for row in query("SELECT id FROM project")]
    return {"project": rng.choice(projects)} if projects else None


def of_a_todo(rng, query):
    rows = query("SELECT project_id, id FROM todo")
    if not rows:
        return None
    row = rng.choice(rows)
    return {"project": row["project_id"], "todo": row["id"]}


@todo.invite.sample
def _(rng, query):
    args = of_a_project(rng, query)
    return args and args | {"user": rng.choice(["ann", "bob", "cyd"])}


@todo.add.sample
def _(rng, query):
    args = of_a_project(rng, query)
    return args and args | {"text": rng.choice(["Buy milk", "Sweep"])}


@todo.reword.sample
def _(rng, query):
    args = of_a_todo(rng, query)
    return args and args | {"text": "Buy wine"}


for action in (todo.finish, todo.reopen, todo.remove):
    action.sample(of_a_todo)
