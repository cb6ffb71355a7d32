"""Real replicas of real users, and PostgreSQL: what a new application meets first."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.todo import OWNERS_EDIT, make_app

from synchrotron import App, Replica

Open = Callable[[str], Replica]


class World:
    """A server, and replicas of one application."""

    def __init__(self, app: App, server: Served) -> None:
        self.app, self.server = app, server
        self.replicas: list[Replica] = []
        self._clock = count(time.time_ns() // 1_000_000)

    def clock(self) -> int:
        """Rises at every look, so that no two actions are made in one millisecond."""
        return next(self._clock)

    def open(self, user: str) -> Replica:
        replica = self.app.open(":memory:", transport=self.server.connect(user), clock=self.clock)
        self.replicas.append(replica)
        replica.sync()
        return replica

    def run(self, replica: Replica, name: str, **arguments: Any) -> str:
        return replica.run(self.app.actions[name, 1], **arguments).id

    def sync(self, *replicas: Replica) -> None:
        for _ in range(2):
            for replica in replicas:
                replica.sync()


@pytest.fixture
def world(serve: Serve, request: pytest.FixtureRequest) -> Iterator[World]:
    app = make_app(getattr(request, "param", None))
    world = World(app, serve(app))
    yield world
    for replica in world.replicas:
        replica.close()


def texts(replica: Replica) -> dict[str, str]:
    return {row["id"]: row["text"] for row in replica.query("SELECT id, text FROM todo")}


@pytest.mark.spec("H7a")
def test_who_creates_a_project_is_its_member_and_whom_she_invites_receives_everything(
    world: World,
) -> None:
    alice, bob = world.open("alice"), world.open("bob")
    world.run(alice, "create_project", id="p")
    world.run(alice, "create_todo", project="p", id="milk")
    alice.sync()
    bob.sync()
    assert texts(bob) == {}

    world.run(alice, "invite", project="p", user="bob")
    world.sync(alice, bob)
    assert texts(bob) == {"milk": "milk"}
    world.run(bob, "edit", project="p", id="milk", text="oat milk")
    world.sync(bob, alice)
    assert texts(alice) == {"milk": "oat milk"}
    assert execute(world.server.database, "SELECT text FROM todo") == [("oat milk",)]


@pytest.mark.spec("H6", "H7a")
def test_a_stranger_who_makes_himself_a_member_is_denied(world: World) -> None:
    alice, eve = world.open("alice"), world.open("eve")
    world.run(alice, "create_project", id="p")
    alice.sync()
    # On his replica there is no such project, which its foreign key would notice.
    world.run(eve, "create_project", id="other")
    eve.sync()
    taken = world.run(eve, "create_project", id="p")
    eve.sync()
    outcome = eve.outcome(taken)
    assert (outcome.state, outcome.reason) == ("parked", "denied")
    assert "project" in str(outcome.detail)
    members = execute(world.server.database, "SELECT user_id FROM project_member ORDER BY 1")
    assert members == [("alice",), ("eve",)]


@pytest.mark.spec("H7a")
def test_an_audience_that_lost_all_its_members_cannot_be_taken_over(world: World) -> None:
    alice, eve = world.open("alice"), world.open("eve")
    world.run(alice, "create_project", id="p")
    alice.sync()
    world.run(alice, "leave", project="p")
    alice.sync()
    assert alice.query("SELECT * FROM project") == []
    for replica in (eve, alice):
        back = world.run(replica, "create_project", id="p")
        replica.sync()
        assert replica.outcome(back).reason == "denied"


@pytest.mark.spec("H1", "H6")
@pytest.mark.parametrize("world", [OWNERS_EDIT], indirect=True)
def test_a_stricter_policy_parks_one_action_and_the_rest_goes_on(world: World) -> None:
    alice, bob = world.open("alice"), world.open("bob")
    world.run(alice, "create_project", id="p")
    world.run(alice, "invite", project="p", user="bob")
    world.run(alice, "create_todo", project="p", id="hers", owner="alice")
    world.run(alice, "create_todo", project="p", id="free")
    world.sync(alice, bob)

    before = world.run(bob, "edit", project="p", id="free", text="before")
    denied = world.run(bob, "edit", project="p", id="hers", text="mine")
    after = world.run(bob, "create_todo", project="p", id="after")
    bob.sync()
    assert [bob.outcome(id).state for id in (before, denied, after)] == [
        "accepted",
        "parked",
        "accepted",
    ]
    assert bob.outcome(denied).reason == "denied"
    assert "todo" in str(bob.outcome(denied).detail) and "hers" in str(bob.outcome(denied).detail)
    alice.sync()
    assert texts(alice) == texts(bob) == {"hers": "hers", "free": "before", "after": "after"}


@pytest.mark.spec("H6")
@pytest.mark.parametrize("world", [OWNERS_EDIT], indirect=True)
def test_a_condition_on_a_row_counts_as_it_was_at_the_actions_place(world: World) -> None:
    """She edits her own todo offline; meanwhile it is given away; her edit comes late."""
    alice, bob, phone = world.open("alice"), world.open("bob"), world.open("alice")
    world.run(alice, "create_project", id="p")
    world.run(alice, "invite", project="p", user="bob")
    world.run(alice, "create_todo", project="p", id="t", owner="alice")
    world.sync(alice, bob, phone)

    late = world.run(phone, "edit", project="p", id="t", text="from the train")
    world.run(alice, "give", project="p", id="t", to="bob")
    world.sync(alice, bob)
    phone.sync()
    assert phone.outcome(late).state == "accepted"
    [row] = execute(world.server.database, "SELECT text, owner FROM todo")
    assert row == ("from the train", "bob")
    too_late = world.run(phone, "edit", project="p", id="t", text="once more")
    phone.sync()
    assert phone.outcome(too_late).reason == "denied"
