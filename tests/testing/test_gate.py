"""Who may upload now."""

import pytest
from msgspec.structs import replace
from tests.servers import new_server
from tests.testing.by_hand import (
    APP,
    P1,
    P2,
    Clock,
    File,
    correct,
    create_project,
    given,
    ids,
    insert,
    numbers,
)

from synchrotron.core.messages import (
    Behind,
    Busy,
    Invalid,
    Ok,
)


@pytest.mark.spec("H3")
def test_an_upload_that_does_not_know_what_its_user_can_see_is_behind() -> None:
    server = given({"alice": {P1}, "bob": {P1, P2}, "carol": {P2}})
    a, b, c = (File(server, u, u[0]) for u in ("alice", "bob", "carol"))
    a.ok(a.action(1, insert("x")))
    c.ok(c.action(2, insert("y", in_=P2)))  # what others see of P1 does not hold carol up
    answer = b.send(late := b.action(3, insert("z")))
    assert isinstance(answer, Behind)
    assert len(answer.download.events) == 2
    assert numbers(server) == {"x": 0, "y": 0}
    b.ok(late)
    assert isinstance(a.send(a.action(4, insert("w"))), Behind)


@pytest.mark.spec("H3")
def test_a_correction_by_another_client_holds_an_upload_up() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(made := a.action(1, insert("x")))
    b.pull()
    b.ok(corrections=[correct(made, insert("x", 5))])
    late = a.action(2, insert("y"))
    assert isinstance(a.send(late), Behind)
    a.ok(late)
    assert numbers(server) == {"x": 5, "y": 0}


@pytest.mark.spec("H3")
def test_a_clients_own_events_do_not_hold_it_up_but_are_told_again() -> None:
    server = given()
    a = File(server, "alice", "a")
    a.send(lost := a.action(1, insert("x")), take=False)
    answer = a.ok(a.action(2, insert("y")))
    assert ids(answer.download.events) == [lost.record.id]


@pytest.mark.spec("H3")
def test_after_three_bounces_a_client_gets_a_lease_until_its_upload_is_decided() -> None:
    clock = Clock()
    server = given({"alice": {P1}, "bob": {P1}, "dora": {P2}}, clock=clock)
    a, b, d = (File(server, u, u[0]) for u in ("alice", "bob", "dora"))
    pending = b.action(50, insert("b"))
    for ms in range(3):
        a.ok(a.action(ms, insert(f"a{ms}")))
        assert isinstance(b.send(pending), Behind)

    held_up = a.action(10, insert("held up"))
    busy = a.send(held_up)
    assert isinstance(busy, Busy)
    assert busy.retry_after_ms == 30_000
    assert "held up" not in numbers(server)
    d.ok(d.action(11, insert("d", in_=P2)))  # bob cannot see it
    a.pull()

    b.ok(pending)
    assert isinstance(a.send(held_up), Behind)
    a.ok(held_up)


@pytest.mark.spec("H3")
def test_a_lease_ends_after_its_time() -> None:
    clock = Clock()
    server = given(clock=clock)
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    for ms in range(3):
        a.ok(a.action(ms, insert(f"a{ms}")))
        b.send(b.action(50, insert("b"), n=1))
    clock.now_ms += 29_999
    busy = a.send(late := a.action(10, insert("x")))
    assert isinstance(busy, Busy)
    assert busy.retry_after_ms == 1
    clock.now_ms += 1
    a.ok(late)


@pytest.mark.spec("H3")
def test_a_lease_lasts_two_seconds_from_each_part_but_no_longer_than_its_time() -> None:
    clock = Clock()
    server = given(clock=clock)
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    sent = [b.action(100 + n, insert(f"b{n}"), n=n + 1) for n in range(20)]
    for ms in range(3):
        a.ok(a.action(ms, insert(f"a{ms}")))
        b.send(*sent)
    whole = b.request(*sent)
    parts = [replace(whole, actions=[one], part=i, parts=20) for i, one in enumerate(sent, 1)]
    late = a.action(10, insert("x"))

    def retry_after_ms() -> int:
        busy = a.send(late)
        assert isinstance(busy, Busy)
        return busy.retry_after_ms

    assert retry_after_ms() == 30_000
    for part in parts[:15]:
        b.transport.exchange(part)
        assert retry_after_ms() == 2_000
        clock.now_ms += 1_900
    b.transport.exchange(parts[15])
    assert retry_after_ms() == 30_000 - 15 * 1_900
    clock.now_ms += 1_500
    b.transport.exchange(parts[16])  # too late: others may have one by now
    a.ok(late)


@pytest.mark.spec("H3")
def test_there_is_one_lease_at_a_time_on_any_audience() -> None:
    clock = Clock()
    server = given(
        {"alice": {P1}, "bob": {P1}, "carol": {P1}, "dora": {P2}, "emil": {P2}}, clock=clock
    )
    a, b, c, d, e = (File(server, u, u[0]) for u in ("alice", "bob", "carol", "dora", "emil"))
    for ms in range(3):
        a.ok(a.action(ms, insert(f"a{ms}")))
        d.ok(d.action(ms, insert(f"d{ms}", in_=P2)))
        for file, in_ in ((b, P1), (c, P1), (e, P2)):
            assert isinstance(file.send(file.action(50, insert("new", in_=in_), n=1)), Behind)
    assert isinstance(a.send(a.action(20)), Ok)  # nobody else sees it
    assert isinstance(c.send(c.action(51, insert("c"), n=2)), Busy)  # bob's lease
    assert isinstance(d.send(d.action(20, insert("d", in_=P2))), Busy)  # emil's
    b.ok(b.action(50, insert("b"), n=1))
    assert isinstance(c.send(c.action(51, insert("c"), n=2)), Behind)  # carol is next
    assert isinstance(a.send(a.action(52, insert("a"))), Behind)
    assert isinstance(a.send(a.action(52, insert("a"))), Busy)


@pytest.mark.spec("H3")
def test_a_lease_stops_uploads_that_would_let_its_user_join() -> None:
    server = new_server(APP, clock=Clock())
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(create_project(a, 0, "p1", "alice", "bob"))
    for ms in range(1, 4):
        a.ok(a.action(ms, insert(f"a{ms}")))
        b.send(b.action(50, insert("b"), n=1))
    assert isinstance(a.send(create_project(a, 10, "p2", "alice", "bob")), Busy)
    a.ok(create_project(a, 11, "p3", "alice"))


@pytest.mark.spec("H3")
def test_being_behind_does_not_prolong_a_lease() -> None:
    clock = Clock()
    server = given(clock=clock)
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    a.ok(a.action(1, insert("x")))
    for _ in range(5):  # its replies are lost
        clock.now_ms += 5_000
        assert isinstance(b.send(b.action(50, insert("b"), n=1), take=False), Behind)
    busy = a.send(a.action(2, insert("y"), n=2))
    assert isinstance(busy, Busy)
    assert busy.retry_after_ms == 20_000


@pytest.mark.spec("H3")
def test_a_refusal_decides_an_upload_and_ends_its_lease() -> None:
    server = given()
    a, b = File(server, "alice", "a"), File(server, "bob", "b")
    for ms in range(3):
        a.ok(a.action(ms, insert(f"a{ms}")))
        b.send(b.action(50, insert("b"), n=1))
    assert isinstance(b.send(b.action(50, insert("b", -1), n=1)), Invalid)
    a.ok(a.action(4, insert("y")))
