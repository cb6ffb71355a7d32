"""Uploads in parts, snapshots that resume, downloads page by page."""

import errno
import io
import tracemalloc
from itertools import islice

import msgspec
import pytest
from tests.replica.conftest import Wire
from tests.replica.shop import add, create_counter, create_noted

from synchrotron.core.ids import Seq
from synchrotron.core.messages import SnapshotHead, SnapshotRequest, SnapshotRows, Staged
from synchrotron.errors import MachineError, Offline, ProtocolError
from synchrotron.replica.exchange import PART_BYTES, PART_ITEMS, PartSize, cut

LONG = "x" * (PART_BYTES * 4 // 5)


def many(replica, *ids):
    for id in ids:
        replica.run(create_counter, id=id)


def large(replica, *ids):
    for id in ids:
        replica.run(create_noted, id=str(id), note=LONG)


# ---- uploads in parts (H1) ----------------------------------------------------------


@pytest.mark.spec("H1")
def test_a_large_upload_goes_in_parts_and_is_stored_as_a_whole(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    large(a, *range(4))
    wire = world.wires[a]
    before = len(wire.sent)

    report = a.sync()

    parts = wire.sent[before:]
    assert [(part.part, part.parts) for part in parts] == [(i, 4) for i in range(1, 5)]
    assert len({part.exchange.token for part in parts}) == 1
    assert (report.uploaded, report.rounds) == (4, 1)
    b.sync()
    assert counts(a) == counts(b) == counts(world.server)


@pytest.mark.spec("H1", "M3")
@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_part_that_is_lost_does_no_harm(world, counts, lost, what):
    a = world.synced("alice")
    large(a, *range(4))
    world.wires[a].lose(*[""] * lost, what)
    with pytest.raises(Offline):
        a.sync()
    assert len(world.server.history) == (4 if (lost, what) == (3, "answer") else 0)
    a.sync()
    assert len(world.server.history) == 4
    assert counts(a) == counts(world.server)


@pytest.mark.spec("H1")
def test_a_server_that_forgot_parts_is_given_them_again(world, counts):
    class Forgetful(Wire):
        times = 1

        def exchange(self, request):
            answer = super().exchange(request)
            if request.part > 1 and self.times:
                self.times -= 1
                world.server._state.parts.clear()
            return answer

    a = world.synced("alice")
    large(a, *range(4))
    wire = a._syncing._transport = Forgetful(world.server.connect("alice"), world.clock)
    a.sync()
    assert [request.part for request in wire.sent] == [1, 2, 3, 4, 1, 2]
    assert counts(a) == counts(world.server)

    large(a, *range(4, 8))
    wire.times = 100
    with pytest.raises(Offline, match="lost parts"):
        a.sync()
    wire.times = 0
    a.sync()
    assert counts(a) == counts(world.server)


@pytest.mark.spec("H1")
def test_an_upload_in_parts_that_is_behind_comes_again(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    many(a, "other")
    a.sync()
    large(b, *range(3))
    assert b.sync().rounds == 2, "behind, as a whole; then stored"
    world.settle(a, b)
    assert counts(a) == counts(b) == counts(world.server)


def test_a_request_is_cut_by_size_and_keeps_its_order(world):
    a = world.synced("alice")
    many(a, *"abcdef")
    request = a._engine.ask()
    assert cut(request) == [request]
    parts = cut(request, PartSize(bytes=1))
    assert [part.part for part in parts] == [1, 2, 3, 4, 5, 6]
    assert {part.parts for part in parts} == {6}
    assert [action for part in parts for action in part.actions] == request.actions
    [large, *_] = cut(request, PartSize(bytes=10**6))
    assert large == request
    assert [len(p.actions) for p in cut(request, PartSize(bytes=2_000))] != [1] * 6


def test_a_request_of_many_small_things_is_cut_by_their_number(world):
    a = world.synced("alice")
    many(a, "a")
    request = a._engine.ask()
    [action] = request.actions
    many_actions = msgspec.structs.replace(request, actions=[action] * (2 * PART_ITEMS + 1))
    parts = cut(many_actions, PartSize(bytes=10**9))
    assert [len(p.actions) for p in parts] == [PART_ITEMS, PART_ITEMS, 1]


# ---- snapshots that resume (F1) -----------------------------------------------------


class Cut(Wire):
    """Breaks snapshots off after some chunks."""

    keep: int | None = None
    heads: list[SnapshotHead]

    def snapshot(self, request: SnapshotRequest):
        chunks = list(super().snapshot(request))
        self.heads = [*getattr(self, "heads", ()), chunks[0]]
        yield from islice(chunks, self.keep)
        if self.keep is not None:
            raise Offline("the stream broke off")


@pytest.fixture
def new(world):
    """A new replica whose snapshots break off, and a server with rows in two chunks."""
    replica = world.replica("bob")
    replica._syncing._transport = Cut(world.server.connect("bob"), world.clock)
    return replica


@pytest.mark.spec("F1")
def test_a_snapshot_that_broke_off_is_resumed_and_not_begun_anew(world, counts, new):
    a = world.synced("alice")
    many(a, *(f"{i:04}" for i in range(1500)))
    a.sync()
    cut = new._syncing._transport
    cut.keep = 2
    with pytest.raises(Offline):
        new.sync()
    assert counts(new) == {}
    # Rows that came are changed, removed and added; the late ones come with the rest.
    a.run(add, id="0003", by=5)
    a.run(add, id="1400", by=7)
    a.run(create_counter, id="0003b")
    a.sync()
    cut.keep = None

    new.sync()

    assert [head.resumed for head in cut.heads] == [False, True]
    assert cut.snapshots[1].resume.key == ["0999"]
    assert counts(new) == counts(a) == counts(world.server)
    assert new._engine._staging is None, "nothing of it stays"


@pytest.mark.spec("F1")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_resumed_snapshot_may_break_off_among_its_changes(world, counts, new, keep):
    a = world.synced("alice")
    many(a, *(f"{i:04}" for i in range(1500)))
    a.sync()
    cut = new._syncing._transport
    for cut.keep in (2, keep, keep):
        with pytest.raises(Offline):
            new.sync()
        a.run(add, id="0003", by=1)
        a.run(add, id=f"{cut.keep:04}", by=1)
        a.sync()
    cut.keep = None
    new.sync()
    assert [head.resumed for head in cut.heads] == [False, True, True, True]
    assert counts(new) == counts(a) == counts(world.server)


@pytest.mark.spec("F1", "F6")
def test_a_snapshot_of_other_audiences_is_begun_anew(make_world, counts):
    world = make_world({"alice": {"all"}, "bob": {"all"}})
    a = world.synced("alice")
    many(a, *(f"{i:04}" for i in range(1500)))
    a.sync()
    b = world.replica("bob")
    cut = b._syncing._transport = Cut(world.server.connect("bob"), world.clock)
    cut.keep = 2
    with pytest.raises(Offline):
        b.sync()
    world.server.audiences["bob"].add("more")
    cut.keep = None
    b.sync()
    assert [head.resumed for head in cut.heads] == [False, False]
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F1", "F4")
def test_a_rebase_that_broke_off_keeps_the_old_rows_until_it_is_complete(world, counts):
    a, b = world.synced("alice"), world.synced("bob")
    many(a, *(f"{i:04}" for i in range(1500)))
    world.settle(a, b)
    run = b.run(add, id="0001", by=3)
    many(a, "new")
    a.sync()
    world.server.prune(keep=0)
    cut = b._syncing._transport = Cut(world.server.connect("bob"), world.clock)
    cut.keep = 2
    before = counts(b)
    with pytest.raises(Offline):
        b.sync()
    assert counts(b) == before
    cut.keep = None
    assert b.sync().rebased == 1
    assert run.outcome.state == "accepted"
    assert counts(b) == counts(world.server)


def test_a_server_that_resumes_what_had_not_begun_is_refused(world, new):
    class Confused(Wire):
        def snapshot(self, request):
            head, *rest = super().snapshot(request)
            yield SnapshotHead(
                **{**{f: getattr(head, f) for f in head.__struct_fields__}, "resumed": True}
            )
            yield from rest

    new._syncing._transport = Confused(world.server.connect("bob"), world.clock)
    with pytest.raises(ProtocolError, match="of which nothing came"):
        new.sync()


# ---- downloads in pages (F2a) -------------------------------------------------------


@pytest.mark.spec("F2a", "H3")
def test_while_pages_are_coming_nothing_is_uploaded_in_vain(make_world, counts):
    world = make_world(page_events=10)
    a, b = world.synced("alice"), world.synced("bob")
    many(b, "mine")
    many(a, *(f"{i:04}" for i in range(55)))
    a.sync()
    wire = world.wires[b]
    before = len(wire.sent)
    b.sync()
    sent = [len(request.actions) for request in wire.sent[before:]]
    assert sent == [1, 0, 0, 0, 0, 0, 1]
    assert counts(a) != counts(b) == counts(world.server)


class Ahead(Wire):
    """A wire on which answers can be waited for later. `during` happens while one is on its way."""

    def __init__(self, connection, clock):
        super().__init__(connection, clock)
        self.begun = []
        self.during = lambda: None

    def begin(self, request):
        self.begun.append(request)
        answer = self.exchange(request)
        self.during()

        def wait():
            if self._losses:
                self._losses.clear()
                raise Offline("the answer was lost")
            return answer

        return wait


@pytest.fixture
def many_pages(make_world):
    """Bob has six pages to fetch, over a wire that overlaps."""
    world = make_world(page_events=10)
    a, b = world.synced("alice"), world.synced("bob", "b.db")
    many(a, *(f"{i:04}" for i in range(55)))
    a.sync()
    wire = b._syncing._transport = Ahead(world.server.connect("bob"), world.clock)
    return world, b, wire


@pytest.mark.spec("F2a")
def test_the_next_page_is_asked_for_before_one_is_taken_in(many_pages, counts):
    world, b, wire = many_pages
    where = []
    wire.during = lambda: where.append(b._engine.state().cursor)

    report = b.sync()

    assert [request.question.cursor for request in wire.begun] == [10, 20, 30, 40, 50]
    assert where == [0, 10, 20, 30, 40], "the page before was not taken in yet"
    assert (report.received, report.rounds, len(wire.sent)) == (55, 6, 6)
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F2a", "O7")
def test_what_is_asked_ahead_is_on_the_disk_before_it_is_sent(many_pages):
    _, b, wire = many_pages
    wire.during = lambda: tokens.append(b._engine.state().tokens[-1])
    tokens = []
    b.sync()
    assert tokens == [request.exchange.token for request in wire.begun]


@pytest.mark.spec("F2a")
def test_a_page_asked_ahead_is_void_where_the_floor_moved_meanwhile(many_pages, counts):
    world, b, wire = many_pages
    wire.during = lambda: b.prune(keep=3)
    b.sync()
    assert b._engine.state().floor is not None
    assert len(wire.sent) > 6, "some came in vain"
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F2a", "M3")
def test_an_answer_that_was_waited_for_and_lost_does_no_harm(many_pages, counts):
    world, b, wire = many_pages
    wire.during = lambda: wire.lose("answer") if len(wire.begun) == 3 else None
    with pytest.raises(Offline):
        b.sync()
    assert len(counts(b)) == 30, "what came before is there"
    b.sync()
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F2a", "H3")
def test_what_is_run_between_pages_is_sent_after_the_last(many_pages, counts):
    world, b, wire = many_pages
    wire.during = lambda: many(b, f"mine {len(wire.begun)}")
    b.sync()
    assert [len(request.actions) for request in wire.sent] == [0] * 6 + [5]
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F2a", "H11")
def test_a_server_put_back_between_two_pages_is_noticed(many_pages, counts):
    world, b, wire = many_pages
    backup = world.server.backup()
    c = world.synced("carol")
    many(c, *(f"lost {i}" for i in range(25)))
    c.sync()

    def put_back():
        if len(wire.begun) == 6:
            world.server.restore(backup)

    wire.during = put_back
    b.sync()
    assert len(counts(b)) == 55
    assert counts(b) == counts(world.server)


def test_a_part_that_is_kept_answers_no_question(world):
    a = world.synced("alice")
    request = a._engine.ask()
    before = a._engine.state()
    taken = a._engine.take(request, Staged(now_ms=world.clock.now_ms, missing=[1]))
    assert taken.next.again
    assert a._engine.state().cursor == before.cursor


# ---- where a snapshot waits until it is complete ------------------------------------


def grown_by(work):
    """The most memory that Python took while working, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.spec("F1")
@pytest.mark.parametrize("file", ["b.db", ":memory:"])
def test_a_snapshot_on_its_way_does_not_fill_the_memory_where_there_is_a_file(world, file):
    """Fifty chunks of a megabyte each, of which the last never comes."""
    b = world.replica("bob", file)

    def chunks():
        yield SnapshotHead(world.clock.now_ms, None, None, Seq(1), "t", ["all"], [])
        for i in range(50):
            yield SnapshotRows("counter", "all", [{"id": f"{i}" + "x" * 10**6, "n": 1}])
        raise Offline("broke off")

    def take():
        with pytest.raises(Offline):
            b._engine.take_snapshot(b._engine.ask_snapshot(), chunks())

    most = grown_by(take)
    assert (most < 20_000_000) == (file != ":memory:"), most
    assert b._engine._staging.resume.key[0].startswith("49")


def test_a_snapshot_that_cannot_be_kept_is_told_and_begun_anew(world, counts):
    class Full(io.BytesIO):
        def write(self, line):
            super().write(line[:10])
            raise OSError(errno.ENOSPC, "no space left on device")

    a = world.synced("alice")
    many(a, *(f"{i:04}" for i in range(1500)))
    a.sync()
    b = world.replica("bob")
    cut = b._syncing._transport = Cut(world.server.connect("bob"), world.clock)
    cut.keep = 2
    with pytest.raises(Offline):
        b.sync()
    b._engine._staging._file = Full()
    cut.keep = None
    with pytest.raises(MachineError, match="no space left"):
        b.sync()
    assert counts(b) == {}
    b.sync()
    assert [head.resumed for head in cut.heads] == [False, True, False]
    assert counts(b) == counts(world.server)


@pytest.mark.spec("F1", "M3")
def test_a_resumed_snapshot_that_another_one_overtook_is_of_no_use(world, counts, new):
    """What it goes on from is not there any more: the replica asks anew."""
    a = world.synced("alice")
    many(a, *(f"{i:04}" for i in range(1500)))
    a.sync()
    engine, server = new._engine, world.server
    first = engine.ask_snapshot()
    with pytest.raises(ProtocolError, match="before its end"):
        engine.take_snapshot(first, islice(server.snapshot("bob", first), 2))
    resuming = engine.ask_snapshot()
    assert resuming.resume is not None
    late = server.snapshot("bob", resuming)
    other = engine.ask_snapshot()
    engine.take_snapshot(other, server.snapshot("bob", other))

    taken = engine.take_snapshot(resuming, late)

    assert (taken.report.rebased, taken.next.again) == (0, True)
    new.sync()
    assert counts(new) == counts(server)
