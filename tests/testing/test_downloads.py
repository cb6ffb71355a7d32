"""What a replica is told: events, rows at its floor, snapshots, pages."""

import pytest
from tests.servers import new_server
from tests.testing.by_hand import (
    APP,
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
    row,
    update,
)

from synchrotron.core.ids import Seq, action_id
from synchrotron.core.messages import (
    Download,
    FloorRow,
    Offer,
    Rebase,
    SnapshotEnd,
    SnapshotHead,
)
from synchrotron.errors import UsageError


@pytest.mark.spec("F1")
def test_a_snapshot_is_all_rows_of_the_users_audiences_at_the_newest_order_key() -> None:
    server = given({"alice": {P1, P2}, "bob": {P1}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(
        a.action(5, *(insert(f"{i:04}") for i in range(1500))),
        last := a.action(9, insert("y", in_=P2)),
    )
    a.ok(a.action(7, delete("0007")))
    head, *chunks, end = b.snapshot()
    assert head == SnapshotHead(
        now_ms=NOW_MS,
        floor=last.record.order_key,
        server_floor=None,
        horizon=Seq(3),
        token=a.token,
        audiences=[P1],
        accepted=[],
    )
    assert [(c.table, c.audience, len(c.rows)) for c in chunks] == [
        ("item", P1, 1000),
        ("item", P1, 499),
    ]
    assert chunks[0].rows[0] == {"id": "0000", "n": 0, "place": None, "project_id": "p1"}
    assert end == SnapshotEnd(1499)


@pytest.mark.spec("F1")
def test_a_snapshot_says_which_offered_actions_were_accepted() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.ok(first := a.action(1, insert("x")))
    a.ok(second := a.action(2, insert("y")))
    server.prune(keep=1)
    offers = [Offer(s.record.id, s.record.seed) for s in (first, second, a.action(3))]
    head = a.snapshot(*offers)[0]
    assert head.accepted == [first.record.id, second.record.id]
    assert (head.server_floor, head.floor) == (first.record.order_key, second.record.order_key)


@pytest.mark.spec("O6")
def test_a_snapshot_tells_of_ids_that_the_file_gave_up_and_of_nobody_elses() -> None:
    server = given()
    a, other = File(server, "alice", "a"), File(server, "bob", "f")
    a.ok(forgotten := a.action(1, insert("x")))
    other.pull()
    other.ok(bobs := other.action(2, insert("y")))
    server.prune(keep=0)
    a.start_from_snapshot()
    a.ok(kept := a.action(3, insert("z")))
    b = File(server, "alice", "b")
    renamed = [
        Offer(action_id(b.client, n), sent.record.seed, [sent.record.id])
        for n, sent in enumerate((kept, forgotten, bobs), 1)
    ]
    under_old_ids = [Offer(s.record.id, s.record.seed) for s in (kept, forgotten, bobs)]
    another_run = Offer(kept.record.id, "f" * 32)

    head = b.snapshot(*renamed, *under_old_ids, another_run)[0]

    assert head.accepted == [renamed[0].id, kept.record.id]
    assert head.pruned == [forgotten.record.id]


@pytest.mark.spec("F2")
def test_an_event_at_or_below_the_replicas_floor_comes_as_the_rows_it_touches_there() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(a.action(1, insert("x", 1), insert("gone")), a.action(10, update("x", n=10)))
    b.start_from_snapshot()
    a.ok(above := a.action(20, update("x", n=20)))
    b.pull()
    a.ok(a.action(5, update("x", n=5, place=5), delete("gone")))
    download = b.pull()
    assert download.events == []
    assert download.rows == [
        FloorRow("item", ["gone"], P1, None),
        FloorRow("item", ["x"], P1, {"id": "x", "n": 10, "place": 5, "project_id": "p1"}),
    ]
    assert download.below == 4
    b.ok(corrections=[correct(above, update("x", n=21))])
    assert a.pull().rows == []


@pytest.mark.spec("F6")
def test_who_joins_receives_rows_at_the_floor_and_history_above() -> None:
    server = given({"alice": {P1, P2}, "bob": {P2}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(
        a.action(1, insert("x", 1), insert("short-lived")),
        a.action(2, delete("short-lived"), insert("other", in_=P2)),
    )
    b.start_from_snapshot()
    a.ok(above := a.action(5, update("x", n=5)))
    b.pull()
    server.audiences["bob"].add(P1)
    download = b.pull()
    assert download.audiences == [P1, P2]
    assert ids(download.events) == [above.record.id]
    x = {"id": "x", "n": 1, "place": None, "project_id": "p1"}
    assert FloorRow("item", ["x"], P1, x) in download.rows
    assert download.below == 2
    assert (b.pull().events, b.pull().rows) == ([], [])

    server.audiences["bob"].discard(P1)
    assert b.pull().audiences == [P2]
    a.ok(a.action(6, update("x", n=6)))
    assert b.pull().events == []
    server.audiences["bob"].add(P1)
    assert len(b.pull().events) == 2


@pytest.mark.spec("F6")
def test_joining_what_was_pruned_above_the_replicas_floor_is_a_rebase() -> None:
    server = given({"alice": {P1, P2}, "bob": {P2}})
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(a.action(1, insert("x")), a.action(2, insert("y", in_=P2)))
    b.pull()
    server.prune(keep=1)
    server.audiences["bob"].add(P1)
    assert isinstance(b.send(), Rebase)
    b.start_from_snapshot()
    assert b.pull().audiences == [P1, P2]


@pytest.mark.spec("F6")
def test_creating_an_audience_is_no_rebase_whatever_was_pruned_elsewhere() -> None:
    server = new_server(APP, clock=Clock())
    a = File(server, "alice", "a")
    a.ok(create_project(a, 1, "p1", "alice"))
    server.prune(keep=0)
    answer = a.ok(create_project(a, 2, "p2", "alice"))
    assert answer.download.audiences == [P1, P2]
    assert answer.download.events == []


@pytest.mark.spec("F2a")
def test_pages_are_short_and_never_split_an_action() -> None:
    server = given(page_events=2)
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    sent = [a.action(ms, insert(f"x{ms}", ms), insert(f"y{ms}")) for ms in range(5)]
    a.ok(*sent[:2])
    a.ok(*sent[2:], corrections=[correct(sent[0], insert("x0", 9))])
    pages: list[Download] = []
    while not pages or pages[-1].more:
        pages.append(b.pull())
        assert all(len(event.patches) == 2 for event in pages[-1].events)
        assert len(pages[-1].events) <= 2
    told = [event.record.id for page in pages for event in page.events]
    assert set(told) == {s.record.id for s in sent}
    first = pages[0].events[0].patches[0]
    assert (first.values or {})["n"] == 9  # newer than its page
    assert (pages[-1].horizon, b.pull().events) == (6, [])


def test_a_page_has_room_for_an_event() -> None:
    with pytest.raises(UsageError, match="at least one"):
        given(page_events=0)


@pytest.mark.spec("S11")
def test_rows_of_an_older_schema_are_completed_by_the_defaults_of_newer_columns() -> None:
    server = given({"alice": {"diary"}})
    a = File(server, "alice", "a")
    a.ok(a.action(1, row("note", "diary", id="n", audience_key="diary")))
    assert server.rows("note") == [
        {"id": "n", "due": None, "cost": None, "done": False, "audience_key": "diary"}
    ]
    [_, chunk, _] = a.snapshot()
    assert chunk.rows == [
        {"id": "n", "due": None, "cost": None, "done": False, "audience_key": "diary"}
    ]
