"""Uploads that come in parts: kept until they are whole, and judged as a whole."""

import msgspec
import pytest
from tests.testing.by_hand import File, given, insert, numbers, update

from synchrotron.core.ids import Seq
from synchrotron.core.messages import (
    Denied,
    Duplicate,
    Ok,
    SentAction,
    Staged,
    Superseded,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.errors import ProtocolError


def parts_of(file: File, *actions: SentAction, **fields: object) -> list[SyncRequest]:
    """An upload with one action in each part."""
    whole = file.request(*actions, **fields)
    return [
        msgspec.structs.replace(whole, actions=[action], part=i, parts=len(actions))
        for i, action in enumerate(actions, 1)
    ]


def missing(answer: SyncAnswer) -> list[int]:
    assert isinstance(answer, Staged), answer
    return answer.missing


@pytest.mark.spec("H1")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 0, 0, 2), (0, 2, 0, 1)])
def test_an_upload_in_parts_is_stored_when_it_is_whole_in_whatever_order_they_come(order) -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    made = a.action(1, insert("x"))
    parts = parts_of(a, made, a.action(2, update("x", n=2)), a.action(3, update("x", n=3)))
    seen: set[int] = set()
    for i in order[:-1]:
        seen.add(i + 1)
        assert missing(a.transport.exchange(parts[i])) == sorted({1, 2, 3} - seen)
        assert server.rows("item") == []
    answer = a.transport.exchange(parts[order[-1]])

    assert isinstance(answer, Ok), answer
    assert answer.accepted == [1, 2, 3]
    assert numbers(server) == {"x": 3}
    assert len(b.pull().events) == 3


@pytest.mark.spec("H1")
def test_an_upload_in_parts_is_one_commit() -> None:
    server = given()
    a = File(server, "alice", "a")
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y", n=-1)))
    a.transport.exchange(parts[0])
    answer = a.transport.exchange(parts[1])
    assert answer.__class__.__name__ == "Invalid"
    assert server.rows("item") == [] and server.history == []


@pytest.mark.spec("H1", "O6")
def test_keeping_a_part_advances_nothing_and_the_whole_uses_the_number_up() -> None:
    server = given()
    a = File(server, "alice", "a")
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y")))
    a.transport.exchange(parts[0])
    assert a.client not in server._state.clients
    assert isinstance(a.transport.exchange(parts[1]), Ok)
    # Whatever comes late is told so, and nothing of it is kept.
    for part in parts:
        assert isinstance(a.transport.exchange(part), Duplicate)
    assert server._state.parts == {}


@pytest.mark.spec("H1")
def test_a_later_request_drops_the_parts_of_an_earlier_one() -> None:
    server = given()
    a = File(server, "alice", "a")
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y")))
    a.transport.exchange(parts[0])
    a.ok()
    assert server._state.parts == {}
    assert isinstance(a.transport.exchange(parts[1]), Superseded)  # its file has gone on
    assert server._state.parts == {} and server.rows("item") == []

    x, y = a.action(1, insert("x"), n=1), a.action(2, insert("y"), n=2)
    first, second = parts_of(a, x, y), parts_of(a, x, y)
    a.transport.exchange(first[0])
    assert missing(a.transport.exchange(second[1])) == [1]  # the first upload's part is gone
    assert isinstance(a.transport.exchange(second[0]), Ok)


@pytest.mark.spec("O6")
def test_the_parts_of_a_copied_file_are_superseded() -> None:
    server = given()
    a, copy = File(server, "alice", "a"), File(server, "alice", "a")
    a.ok(a.action(1, insert("x")))
    parts = parts_of(copy, copy.action(1, insert("y")), copy.action(2, insert("z")))
    assert all(isinstance(copy.transport.exchange(part), Superseded) for part in parts)
    assert numbers(server).keys() == {"x"}


@pytest.mark.spec("H9")
def test_nobody_adds_a_part_to_anothers_upload() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok()
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y")))
    a.transport.exchange(parts[0])
    with pytest.raises(ProtocolError, match="belongs to another user"):
        b.transport.exchange(parts[1])
    assert missing(a.transport.exchange(parts[0])) == [2]


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    server = given()
    a = File(server, "alice", "a")
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y")))
    a.transport.exchange(parts[0])
    for change in ({"parts": 3}, {"question": a.question().__class__(Seq(7), "", None, [])}):
        with pytest.raises(ProtocolError, match="part 2 of an upload differs from part 1"):
            a.transport.exchange(msgspec.structs.replace(parts[1], **change))
    assert isinstance(a.transport.exchange(parts[1]), Ok)


def test_a_part_beyond_the_last_one_cannot_be_built() -> None:
    request = File(given(), "alice", "a").request()
    with pytest.raises(ValueError, match="part 3 of 2"):
        msgspec.structs.replace(request, part=3, parts=2)


@pytest.mark.spec("H6")
def test_an_action_in_a_part_is_denied_like_any_other() -> None:
    server = given()
    a = File(server, "carol", "a")
    parts = parts_of(a, a.action(1, insert("x")), a.action(2, insert("y")))
    a.transport.exchange(parts[1])
    answer = a.transport.exchange(parts[0])
    assert isinstance(answer, Denied)
    assert answer.action_id == parts[0].actions[0].record.id
