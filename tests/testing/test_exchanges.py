"""Which requests are judged at all: clients, files, histories, order keys."""

import msgspec
import pytest
from tests.testing.by_hand import Clock, File, correct, given, insert, numbers, update

from synchrotron.core.ids import ClientId, Seq, action_id
from synchrotron.core.messages import (
    PROTOCOL,
    Denied,
    Duplicate,
    Early,
    Exchange,
    Fate,
    Install,
    Invalid,
    Offer,
    Ok,
    SentAction,
    SnapshotEnd,
    SnapshotHead,
    SnapshotRows,
    Stale,
    Superseded,
    SyncRequest,
)
from synchrotron.errors import ProtocolError


@pytest.mark.spec("O6")
def test_a_duplicate_request_does_nothing() -> None:
    server = given()
    a = File(server, "alice", "a")
    request = a.request(a.action(1, insert("x")))
    assert isinstance(a.transport.exchange(request), Ok)
    assert isinstance(a.transport.exchange(request), Duplicate)
    assert [chunk.__class__ for chunk in a.snapshot()] == [SnapshotHead, SnapshotRows, SnapshotEnd]
    assert isinstance(a.transport.exchange(request), Superseded)  # its file has gone on


@pytest.mark.spec("O6")
def test_a_restored_or_copied_file_is_superseded_and_told_what_became_of_its_actions() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(first := a.action(1, insert("x")))
    a.earlier = a.earlier[-1:]
    number, n = a.number, a.n
    a.ok(second := a.action(2, insert("y")))

    a.number, a.n, a.earlier = number, n, a.earlier[:1]  # the older copy is put back
    a.cursor, a.token = Seq(0), ""
    other = a.action(3, insert("z"), seed="f" * 32)
    answer = a.send(first, other, a.action(4, insert("w"), n=7))
    assert isinstance(answer, Superseded)
    assert answer.fates == [
        Fate(first.record.id, first.record.seed),
        Fate(second.record.id, second.record.seed),
        Fate(action_id(a.client, 7), None),
    ]
    assert numbers(server).keys() == {"x", "y"}


@pytest.mark.spec("O6")
def test_another_seed_under_a_stored_id_is_superseded() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(a.action(1, insert("x")))
    answer = a.send(a.action(2, insert("y"), n=1, seed="e" * 32))
    assert isinstance(answer, Superseded)
    [refusal] = a.snapshot(Offer(action_id(a.client, 1), "e" * 32))
    assert isinstance(refusal, Superseded)


@pytest.mark.spec("O6")
def test_a_pruned_action_is_named_as_pruned() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(first := a.action(1, insert("x")))
    server.prune(keep=0)
    a.earlier.clear()
    answer = a.send(first, take=False)
    assert isinstance(answer, Superseded)
    assert answer.fates == [Fate(first.record.id, None, pruned=True)]


@pytest.mark.spec("O6", "H9")
def test_a_former_id_of_a_client_that_nobody_used_is_known_to_all_files_of_its_user() -> None:
    """A server that was put back has forgotten whose it was: who tells of it first, has it."""
    server = given()
    b = File(server, "alice", "b")
    b.pull()
    former = action_id(ClientId("a" * 24), 1)
    sent = b.action(1, insert("x"))
    b.ok(msgspec.structs.replace(sent, formerly=[former]))
    offer = Offer(former, sent.record.seed)

    assert File(server, "alice", "c").snapshot(offer)[0].accepted == [former]
    assert File(server, "bob", "d").snapshot(offer)[0].accepted == []
    with pytest.raises(ProtocolError, match="belongs to another user than bob"):
        File(server, "bob", "a").pull()
    a = File(server, "alice", "a")
    a.pull()
    assert isinstance(a.send(a.action(2, seed=sent.record.seed)), Superseded)
    a = File(server, "alice", "a")
    a.number, a.earlier = 2, ["e" * 24]
    assert isinstance(a.send(), Superseded), "a copy of it is noticed as ever"


@pytest.mark.spec("O6")
def test_a_refused_upload_uses_its_number_up() -> None:
    server = given()
    a = File(server, "alice", "a")
    request = a.request(a.action(1, insert("x", -1)))
    assert isinstance(a.transport.exchange(request), Invalid)
    assert isinstance(a.transport.exchange(request), Duplicate)


@pytest.mark.spec("O5")
def test_what_was_accepted_is_remembered_with_its_holes() -> None:
    server = given()
    a = File(server, "alice", "a")
    for ms, n in enumerate((5, 2, 3, 1, 9)):
        a.ok(a.action(ms, n=n))
    server.prune(keep=0)
    offers = [Offer(action_id(a.client, n), "0" * 32) for n in range(1, 11)]
    head = a.snapshot(*offers)[0]
    assert head.accepted == [action_id(a.client, n) for n in (1, 2, 3, 5, 9)]


@pytest.mark.spec("H9")
def test_a_client_id_belongs_to_the_user_who_first_used_it() -> None:
    server = given()
    File(server, "alice", "a").pull()
    with pytest.raises(ProtocolError, match="belongs to another user than bob"):
        File(server, "bob", "a").pull()
    with pytest.raises(ProtocolError, match="belongs to another user than bob"):
        File(server, "bob", "a").snapshot()


@pytest.mark.spec("H9")
def test_actions_of_another_user_or_client_are_denied_and_nothing_is_said_of_them() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(first := a.action(1, insert("x")))
    b.pull()
    for sent in (b.action(2, user="alice"), a.action(2), first):
        answer = b.send(sent)
        assert isinstance(answer, Denied)
        assert (answer.action_id, answer.table) == (sent.record.id, None)
    head = b.snapshot(Offer(first.record.id, "e" * 32))[0]
    assert head.accepted == []


def test_messages_that_the_protocol_does_not_allow_leave_nothing() -> None:
    server = given()
    a = File(server, "alice", "a")
    one, two = a.action(2, insert("x")), a.action(1, insert("y"))
    with pytest.raises(ProtocolError, match="not ordered after"):
        a.send(one, two)
    with pytest.raises(ProtocolError, match="sent twice"):
        a.send(one, a.action(3, n=1))
    with pytest.raises(ProtocolError, match="corrected twice"):
        a.send(corrections=[correct(one, insert("x")), correct(one, update("x", n=1))])
    with pytest.raises(ProtocolError, match=f"protocol {PROTOCOL + 1}"):
        a.send(one, protocol=PROTOCOL + 1)
    with pytest.raises(ProtocolError, match="cannot read"):
        a.transport.exchange(SyncRequest(Exchange(a.client, -1, "", []), a.question()))
    a.earlier.clear()  # so that a kept token would show
    a.ok(two, one)


@pytest.mark.spec("S11")
def test_a_replica_whose_schema_is_ahead_is_told_to_install_first() -> None:
    server = given()
    a = File(server, "alice", "a")
    answer = a.send(schema=1)
    assert isinstance(answer, Install)
    assert answer.schema == 0
    assert isinstance(a.snapshot(schema=1)[0], Install)


@pytest.mark.spec("O4")
def test_keys_too_far_in_the_future_or_the_past_are_early_but_never_of_a_retry() -> None:
    clock = Clock()
    server = given(clock=clock, max_backdate_ms=1_000)
    a = File(server, "alice", "a")
    answer = a.send(a.action(1), wrong := a.action(60_001, insert("x")))
    assert isinstance(answer, Early)
    assert answer.action_id == wrong.record.id
    assert server.history == []
    a.ok(edge := a.action(60_000, insert("x")), take=False)
    clock.now_ms -= 5_000
    a.ok(edge, take=False)
    clock.now_ms += 100_000
    a.ok(edge)
    assert isinstance(a.send(a.action(98_000)), Ok)  # 97 s is the edge
    assert isinstance(a.send(a.action(93_999)), Early)


@pytest.mark.spec("F4")
def test_actions_below_the_servers_floor_and_pruned_retries_are_stale() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(first := a.action(5, insert("x")))
    server.prune(keep=0)
    for sent in (first, a.action(4, insert("y")), a.action(6, n=1)):
        answer = a.send(sent)
        assert isinstance(answer, Stale)
        assert answer.floor == first.record.order_key
    a.ok(a.action(6, insert("y")))


@pytest.mark.spec("O6")
def test_copies_may_have_used_one_id_for_several_runs() -> None:
    server = given()
    a, b, c = (File(server, "alice", letter) for letter in "abc")
    a.ok(a.action(1, insert("x")))
    one, other = b.action(2, insert("y")), c.action(3, insert("z"), seed="f" * 32)
    renamed = [
        SentAction(sent.record, sent.patches, [action_id(a.client, 2)]) for sent in (one, other)
    ]
    for copy, sent in zip((b, c), renamed, strict=True):
        copy.pull()
        copy.ok(sent)

    for sent in (one, other):
        seed = sent.record.seed
        answer = a.send(a.action(4, insert("w"), n=2, seed=seed))
        assert isinstance(answer, Superseded)
        assert answer.fates == [Fate(action_id(a.client, 2), seed)]
    a.pull()
    a.ok(a.action(4, insert("w"), n=2, seed="e" * 32))
    assert numbers(server).keys() == {"w", "x", "y", "z"}
