"""A question to which nothing is new is answered by one statement, by the same rules as any."""

import copy

import pytest
from msgspec.structs import replace
from tests.postgres.bridge import Served
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import APP, Clock, File, create_project, insert, membership

from synchrotron.core.ids import Seq
from synchrotron.core.messages import Duplicate, Epoch, Install, Ok, Superseded
from synchrotron.errors import ProtocolError


@pytest.fixture
def server(serve: Serve) -> Served:
    return serve(described(APP, given=False), clock=Clock())


@pytest.fixture
def alice(server: Served) -> File:
    """She is in step: what she asks next is answered at a glance."""
    alice = File(server, "alice", "a")  # type: ignore[arg-type]
    alice.ok(create_project(alice, 1, "p1", "alice"))
    alice.pull()
    return alice


def copied(file: File) -> File:
    """The same database file once more."""
    other = copy.copy(file)
    other.earlier = list(file.earlier)
    return other


@pytest.mark.spec("O6")
def test_a_question_that_came_before_does_nothing(alice: File) -> None:
    request = alice.request()
    assert isinstance(alice.transport.exchange(request), Ok)
    assert isinstance(alice.transport.exchange(request), Duplicate)


@pytest.mark.spec("O6")
def test_of_two_copies_of_a_file_the_second_that_asks_is_superseded(alice: File) -> None:
    other = copied(alice)
    other.pull()
    alice.number += 10
    assert isinstance(alice.send(), Superseded)
    other.pull()


@pytest.mark.spec("O6")
def test_a_question_is_kept_as_the_newest_request_of_its_file(alice: File) -> None:
    other = copied(alice)
    alice.pull()
    alice.pull()
    assert isinstance(other.send(insert_of(other)), Superseded)
    alice.ok(insert_of(alice))


def insert_of(file: File):  # type: ignore[no-untyped-def]
    return file.action(5, insert("x"), n=7)


@pytest.mark.spec("H9")
def test_another_users_client_id_gets_no_answer(server: Served, alice: File) -> None:
    alice.user, alice.transport = "bob", server.connect("bob")  # type: ignore[assignment]
    with pytest.raises(ProtocolError, match="belongs to another user"):
        alice.send()


@pytest.mark.spec("H11")
@pytest.mark.parametrize("field", ["cursor_token", "seen_token"])
def test_a_question_from_another_history_is_of_a_new_epoch(alice: File, field: str) -> None:
    request = alice.request()
    if field == "cursor_token":
        request = replace(request, question=replace(request.question, cursor_token="f" * 24))
    else:
        request = replace(request, seen=Seq(1), seen_token="f" * 24)
    assert isinstance(alice.transport.exchange(request), Epoch)


@pytest.mark.spec("S11")
def test_a_replica_whose_schema_is_ahead_is_told_so_at_once(alice: File) -> None:
    assert isinstance(alice.send(schema=9), Install)


@pytest.mark.spec("F6", "H7")
def test_what_is_new_is_told(server: Served, alice: File) -> None:
    bob = File(server, "bob", "b")  # type: ignore[arg-type]
    bob.pull()
    assert bob.pull().events == []
    alice.ok(alice.action(2, membership("p1-bob", "p1", "bob")))
    joined = bob.pull()
    assert joined.audiences == ["project:p1"]
    assert len(joined.events) == 2
    alice.ok(alice.action(3, insert("x")))
    assert [event.record.id for event in bob.pull().events] == [f"{alice.client}-3"]
    assert bob.pull().events == []
