"""Messages lost, delayed and repeated, and answers whose question has changed (S1, H4, O6)."""

import msgspec
import pytest
from tests.replica.shop import add, buy, create_counter, put_on_sale

from synchrotron.core.clock import order_key, tick, timestamp_of
from synchrotron.core.ids import Seq
from synchrotron.core.messages import Duplicate, Event, Ok, known_patch
from synchrotron.core.patches import Known, update
from synchrotron.errors import Offline, ProtocolError


@pytest.fixture
def halves(world):
    """A replica, and the two halves of its exchanges."""
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)

    def send(request):
        return world.wires[a].connection.exchange(request)

    return a, b, a._engine, send


def agree(world, counts, a, b, expected):
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server) == expected


@pytest.mark.spec("O6", "H4", "M3")
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_an_upload_that_was_lost_either_way_is_stored_once(world, counts, halves, lost):
    a, b, _, _ = halves
    run = a.run(add, id="x", by=1)
    world.wires[a].lose(lost)
    with pytest.raises(Offline):
        a.sync()
    assert run.outcome.state == "pending"

    a.sync()

    assert run.outcome.state == "accepted"
    agree(world, counts, a, b, {"x": 1})
    assert len(world.server.history) == 2


@pytest.mark.spec("H4")
def test_after_a_lost_answer_others_actions_in_between_are_taken_into_account(
    world, counts, halves
):
    a, b, _, _ = halves
    b.run(add, id="x", by=10)  # first in order
    run = a.run(add, id="x", by=1)
    world.wires[a].lose("answer")
    with pytest.raises(Offline):
        a.sync()
    b.sync()
    a.run(add, id="x", by=100)

    a.sync()

    assert run.outcome.seq is not None
    agree(world, counts, a, b, {"x": 111})
    assert len(world.server.history) == 4


@pytest.mark.spec("O6", "M3")
def test_a_request_delivered_twice_is_answered_as_a_duplicate_and_does_nothing(
    world, counts, halves
):
    a, b, engine, send = halves
    a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)

    again = send(request)

    assert isinstance(answer, Ok)
    assert isinstance(again, Duplicate)
    engine.take(request, again)
    engine.take(request, answer)
    agree(world, counts, a, b, {"x": 1})
    assert len(world.server.history) == 2


@pytest.mark.spec("O6", "M3")
def test_an_answer_taken_twice_changes_nothing_the_second_time(world, counts, halves):
    a, b, engine, send = halves
    run = a.run(add, id="x", by=1)
    b.run(create_counter, id="y")
    b.sync()
    request = engine.ask()
    answer = send(request)
    engine.take(request, answer)
    state, outcome = engine.state(), run.outcome

    again = engine.take(request, answer)

    assert (again.outcomes, again.report.received) == ([], 0)
    assert (engine.state(), run.outcome) == (state, outcome)
    agree(world, counts, a, b, {"x": 1, "y": 0})


@pytest.mark.spec("O6", "M3")
def test_an_answer_that_comes_after_a_later_one_is_ignored(world, counts, halves):
    a, b, engine, send = halves
    run = a.run(add, id="x", by=1)
    first = engine.ask()
    first_answer = send(first)
    b.sync()
    b.run(add, id="x", by=10)
    b.sync()
    second = engine.ask()
    second_answer = send(second)
    engine.take(second, second_answer)
    before = engine.state()

    engine.take(first, first_answer)

    assert engine.state() == before
    assert run.outcome.seq is not None
    agree(world, counts, a, b, {"x": 11})


@pytest.mark.spec("O6")
def test_a_request_that_arrives_after_a_later_one_stores_nothing(world, counts, halves):
    a, b, engine, send = halves
    a.run(add, id="x", by=1)
    delayed = engine.ask()
    a.sync()
    a.run(add, id="x", by=10)
    a.sync()

    answer = send(delayed)
    before = engine.state()

    assert not isinstance(answer, Ok)
    engine.take(delayed, answer)
    assert engine.state() == before, "it is not even taken for a restored file"
    agree(world, counts, a, b, {"x": 11})


@pytest.mark.spec("O6")
def test_a_request_overtaken_by_a_later_one_is_not_taken_for_a_restored_file(world, counts, halves):
    """As where two processes sync one file: the later request is still to be answered."""
    a, b, engine, send = halves
    client = engine.state().client_id
    run = a.run(add, id="x", by=1)
    slow, fast = engine.ask(), engine.ask()
    fast_answer, slow_answer = send(fast), send(slow)
    assert not isinstance(slow_answer, Ok)

    engine.take(slow, slow_answer)
    engine.take(fast, fast_answer)

    assert engine.state().client_id == client
    assert (run.outcome.id, run.outcome.state) == (run.id, "accepted")
    agree(world, counts, a, b, {"x": 1})


@pytest.mark.spec("S1")
def test_what_ran_between_question_and_answer_keeps_its_place(world, counts, halves):
    a, b, engine, send = halves
    b.run(add, id="x", by=10)
    b.sync()
    sent = a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)
    between = a.run(add, id="x", by=100)

    engine.take(request, answer)

    assert between.outcome.state == "pending"
    assert counts(a) == {"x": 111}
    agree(world, counts, a, b, {"x": 111})
    assert [run.outcome.seq is not None for run in (sent, between)] == [True, True]


@pytest.mark.spec("S1", "F3")
def test_an_answer_about_another_floor_is_asked_for_again(world, counts, halves):
    a, b, engine, send = halves
    b.run(add, id="x", by=10)  # to be given as an event
    b.sync()
    a.run(create_counter, id="y")
    a.sync()
    b.run(add, id="x", by=1)
    b.sync()
    request = engine.ask()
    answer = send(request)
    assert answer.download.events
    cursor = engine.state().cursor
    assert a.prune() > 0

    taken = engine.take(request, answer)

    assert taken.next.again
    assert engine.state().cursor == cursor
    agree(world, counts, a, b, {"x": 11, "y": 0})


@pytest.mark.spec("S1")
def test_what_an_answer_says_of_the_upload_counts_though_its_download_does_not(
    world, counts, halves
):
    a, b, engine, send = halves
    run = a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)
    a.prune()

    engine.take(request, answer)

    assert run.outcome.state == "accepted"
    agree(world, counts, a, b, {"x": 1})


@pytest.mark.spec("S1", "S3")
def test_the_answer_means_what_was_sent_and_not_what_is_applied_by_then(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(create_counter, id="x")
    world.settle(a, b)
    engine, send = a._engine, world.wires[a].connection.exchange
    b.run(add, id="x", by=10)  # first in order
    run = a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)  # stored as n = 1
    b.sync()  # Bob corrects it to 11
    ask = engine.ask(upload=False)
    ask_answer = send(ask)
    engine.take(request, answer)
    assert counts(a) == {"x": 1}

    engine.take(ask, ask_answer)

    agree(world, counts, a, b, {"x": 11})
    assert run.outcome.state == "changed"


@pytest.mark.spec("H4")
def test_a_retry_whose_effects_differ_by_now_corrects_what_was_stored(world, rows):
    a, b = world.synced("alice"), world.synced("bob")
    a.run(put_on_sale, id="pen", stock=1)
    world.settle(a, b)
    b.run(buy, id="pen")  # first in order, but Alice's comes first
    run = a.run(buy, id="pen")
    world.wires[a].lose("answer")
    with pytest.raises(Offline):
        a.sync()
    b.sync()

    world.settle(a, b)

    assert run.outcome.state == "rejected"
    assert [row["buyer"] for row in world.server.rows("sale")] == ["bob"]
    assert rows(a, "sale") == rows(b, "sale") == world.server.rows("sale")


@pytest.mark.spec("H4", "O4")
def test_the_stored_order_key_wins(world, counts, halves):
    a, _, engine, send = halves
    run = a.run(create_counter, id="y")
    after = a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)
    at = timestamp_of(request.actions[1].record.order_key)
    moved = order_key(tick(at.ms + 1, at), request.exchange.client_id)

    engine.take(request, msgspec.structs.replace(answer, moved={run.id: moved}))

    assert [r.id for r in a.log()[-2:]] == [after.id, run.id]
    assert a.log()[-1].order_key == moved
    later = a.run(add, id="x", by=1)
    assert a.log()[-1].id == later.id, "O1: it sorts after all that is known"


def test_an_answer_that_tells_of_other_actions_than_were_sent_changes_nothing(halves):
    a, _, engine, send = halves
    run = a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)
    with pytest.raises(ProtocolError, match="tells of 0 actions, and was sent 1"):
        engine.take(request, msgspec.structs.replace(answer, accepted=[]))
    assert run.outcome.state == "pending"
    engine.take(request, answer)
    assert run.outcome.state == "accepted"


@pytest.mark.spec("S3")
def test_what_was_replayed_since_it_was_sent_is_a_correction(world, counts, halves):
    a, b, engine, send = halves
    world.server.policy = lambda user, op, table, row: row["n"] != 10
    parked = a.run(add, id="x", by=10)
    a.sync()
    world.server.policy = None
    a.run(add, id="x", by=1)
    request = engine.ask()
    answer = send(request)  # stored as n = 1
    a.retry(parked.id)  # back in its old place: now it is 11

    engine.take(request, answer)

    a.sync()
    assert counts(a) == counts(world.server) == {"x": 11}, "before anyone else could correct it"
    agree(world, counts, a, b, {"x": 11})


@pytest.mark.spec("H3")
def test_whoever_is_behind_takes_in_first_and_uploads_then(world, counts, halves):
    a, b, _, _ = halves
    b.run(add, id="x", by=10)
    b.sync()
    a.run(add, id="x", by=1)

    report = a.sync()

    assert (report.rounds, report.uploaded, report.received) == (2, 1, 1)
    agree(world, counts, a, b, {"x": 11})


@pytest.mark.spec("H3")
def test_who_was_bounced_too_often_gets_a_lease_and_others_wait(world, counts, halves):
    a, b, engine, send = halves
    a.run(add, id="x", by=1)
    for _ in range(3):
        b.run(add, id="x", by=10)
        b.sync()
        request = engine.ask()
        engine.take(request, send(request))
        # each time Bob is faster
    b.run(add, id="x", by=10)

    b.sync()
    assert sum(world.wires[b].waited_ms) > 0, "Bob was told to wait"
    agree(world, counts, a, b, {"x": 41})


def test_a_message_that_the_protocol_does_not_allow_leaves_everything_queued(world, counts):
    a = world.synced("alice")
    stranger = world.synced("bob")
    run = a.run(create_counter, id="x")
    a._syncing._transport = world.server.connect("bob")  # another user's connection
    with pytest.raises(ProtocolError, match="belongs to another user"):
        a.sync()
    assert run.outcome.state == "pending"
    a._syncing._transport = world.wires[a]
    a.sync()
    assert run.outcome.state == "accepted"
    world.settle(stranger)


@pytest.mark.spec("S3")
def test_an_older_patch_never_replaces_a_newer_one(world, counts, halves):
    """A correction is known; then a download tells of the action as it was before."""
    a, b, engine, send = halves
    b.run(add, id="x", by=10)
    a.run(add, id="x", by=1)
    a.sync()
    b.sync()  # corrects what Alice's did
    world.settle(a, b)
    [before] = [e for e in engine.store.log.all() if e.record.args.get("by") == 1]
    request = engine.ask()
    answer = send(request)
    events = [
        Event(record, seq, [known_patch(t, Known(update({"n": 1}), Seq(2), Seq(2))) for t in known])
        for record, seq, known in world.server.log()
        if record.id == before.record.id
    ]
    download = msgspec.structs.replace(answer.download, events=events)

    engine.take(request, msgspec.structs.replace(answer, download=download))

    assert counts(a) == counts(world.server) == {"x": 11}
    assert engine.ask().corrections == [], "what the server has is known"
