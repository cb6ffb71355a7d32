"""Wrong clocks: what is re-stamped, what is not, and what merely waits (O1, O2, O4)."""

import msgspec
import pytest
from tests.replica import shop
from tests.replica.conftest import Wire
from tests.replica.shop import add, create_counter

from synchrotron import App, Context
from synchrotron.core.clock import timestamp_of
from synchrotron.core.messages import Early, Ok, SyncAnswer, SyncRequest
from synchrotron.errors import Offline

DAY_MS = 24 * 3_600_000


def moments(replica):
    return [timestamp_of(record.order_key).ms for record in replica.log()]


@pytest.mark.spec("O4", "O5")
@pytest.mark.parametrize("skew_ms", [DAY_MS, -DAY_MS])
def test_a_clock_that_is_a_day_off_is_noticed_and_pending_actions_are_stamped_anew(
    make_world, counts, skew_ms
):
    world = make_world(max_backdate_ms=3_600_000)
    a, wrong = world.synced("alice"), world.synced("bob", skew_ms=skew_ms)
    runs = [wrong.run(create_counter, id="x"), wrong.run(add, id="x", by=1)]
    runs.append(wrong.run(add, id="x", by=2))
    before = wrong.log()
    assert all(abs(ms - world.clock.now_ms) > DAY_MS // 2 for ms in moments(wrong))

    wrong.sync()

    after = wrong.log()
    assert [r.id for r in after] == [r.id for r in before] == [run.id for run in runs]
    assert [r.seed for r in after] == [r.seed for r in before]
    assert [r.now for r in after] == [r.now for r in before], "the moment never changes"
    assert all(abs(ms - world.clock.now_ms) < 1_000 for ms in moments(wrong))
    assert [run.outcome.state for run in runs] == ["accepted"] * 3
    assert counts(wrong) == counts(world.server) == {"x": 3}

    # From now on it is in time with the others.
    later = wrong.run(add, id="x", by=10)
    report = wrong.sync()
    assert (report.rounds, later.outcome.state) == (1, "accepted")
    a.sync()
    a.run(add, id="x", by=20)
    world.settle(a, wrong)
    assert [r.user for r in a.log()] == ["bob"] * 4 + ["alice"]
    assert counts(a) == counts(wrong) == counts(world.server) == {"x": 33}


@pytest.mark.spec("O4")
def test_the_corrected_clock_is_remembered_in_the_file(make_world):
    world = make_world()
    wrong = world.synced("bob", "b.db", skew_ms=DAY_MS)
    wrong.run(create_counter, id="x")
    wrong.sync()
    wrong.close()
    again = world.replica("bob", "b.db", skew_ms=DAY_MS)
    again.run(create_counter, id="y")
    assert all(abs(ms - world.clock.now_ms) < 1_000 for ms in moments(again))
    assert again.sync().rounds <= 2


@pytest.mark.spec("O4")
def test_a_clock_behind_is_no_harm_where_the_server_allows_it(world, counts):
    a, late = world.synced("alice"), world.synced("bob", skew_ms=-DAY_MS)
    a.run(create_counter, id="x")
    a.sync()
    run = late.run(create_counter, id="y")
    late.sync()
    assert run.outcome.state == "accepted"
    assert world.clock.now_ms - moments(late)[0] > DAY_MS // 2
    late.run(add, id="x", by=1)
    world.settle(late, a)
    assert counts(a) == counts(world.server) == {"x": 1, "y": 0}


@pytest.mark.spec("O4")
def test_it_is_stamped_above_everything_that_it_may_have_seen(make_world, counts):
    world = make_world(max_backdate_ms=3_600_000)
    a, wrong = world.synced("alice", skew_ms=30_000), world.synced("bob", skew_ms=DAY_MS)
    a.run(create_counter, id="x")  # half a minute ahead, which is allowed
    world.settle(a, wrong)
    wrong.run(add, id="x", by=1)

    wrong.sync()

    assert [r.name for r in wrong.log()] == ["create_counter", "add"]
    assert counts(wrong) == counts(world.server) == {"x": 1}


@pytest.mark.spec("O4")
def test_what_was_sent_without_an_answer_is_not_stamped_anew_before_its_fate_is_known(
    make_world, counts
):
    world = make_world()
    wrong = world.synced("bob", skew_ms=DAY_MS)
    wire = world.wires[wrong]
    run = wrong.run(create_counter, id="x")
    [before] = wrong.log()
    wire.lose("request", "", "request")
    with pytest.raises(Offline):
        wrong.sync()
    lost = wire.sent[-1]
    with pytest.raises(Offline):
        wrong.sync()  # refused as early; then it only asks, and that is lost

    assert wrong.log() == [before]
    assert wire.sent[-1].actions == [], "a question alone"

    wrong.sync()
    [after] = wrong.log()
    assert after.id == before.id
    assert after.order_key < before.order_key
    assert run.outcome.state == "accepted"
    assert not isinstance(wire.connection.exchange(lost), Ok), "it comes too late"
    assert counts(world.server) == {"x": 0}


@pytest.mark.spec("O4", "H4")
def test_an_accepted_action_whose_answer_was_lost_keeps_its_key_however_old_it_gets(
    make_world, counts
):
    world = make_world(max_backdate_ms=3_600_000)
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    [before] = a.log()
    world.wires[a].lose("answer")
    with pytest.raises(Offline):
        a.sync()
    world.clock.now_ms += DAY_MS

    a.sync()

    assert a.log() == [before]
    assert run.outcome.state == "accepted"
    assert len(world.server.history) == 1


class Strict(Wire):
    """A server whose clock refuses keys, as long as that is wanted."""

    refuse = True

    def exchange(self, request: SyncRequest) -> SyncAnswer:
        if self.refuse and request.actions:
            super().exchange(msgspec.structs.replace(request, actions=[]))
            return Early(now_ms=self._clock.now_ms, action_id=request.actions[0].record.id)
        return super().exchange(request)


@pytest.mark.spec("O4")
def test_a_key_refused_only_because_others_run_ahead_waits(world, counts):
    a = world.synced("alice")
    strict = Strict(world.server.connect("alice"), world.clock)
    a._syncing._transport = strict
    run = a.run(create_counter, id="x")
    before = a.log()
    blocked = []
    a.on("blocked", blocked.append)

    a.sync()

    assert len(strict.sent) == 1, "it does not press"
    assert a.log() == before
    assert run.outcome.state == "pending"
    assert a.state == "blocked: an order key runs ahead of the server's clock, and waits for it"
    assert len(blocked) == 1
    strict.refuse = False
    a.sync()
    assert a.log() == before
    assert run.outcome.state == "accepted"
    assert a.state == "in step"


@pytest.mark.spec("O1", "O2")
def test_order_keys_rise_also_where_the_machines_clock_goes_back(world):
    a = world.synced("alice", "a.db")
    keys = []
    for i in range(3):
        a.run(create_counter, id=f"x{i}")
        keys.append(a.log()[-1].order_key)
        world.clock.now_ms -= 10_000
        a.close()
        a = world.replica("alice", "a.db")
    assert keys == sorted(keys)
    b = world.synced("bob")
    a.sync()
    b.sync()
    b.run(add, id="x0", by=1)
    assert b.log()[-1].order_key > keys[-1], "O1: after everything it knows"


@pytest.mark.spec("A3", "O4")
def test_the_moment_an_action_sees_is_never_later_than_its_place(make_world):
    app = App("shop", schema=shop.SCHEMA)
    app.actions["create_counter", 1] = create_counter
    seen = []

    @app.action(audience="all")
    def look(ctx: Context) -> None:
        seen.append(ctx.now.timestamp() * 1_000)

    world = make_world()
    wrong = world.synced("bob", app=app, skew_ms=DAY_MS)
    wrong.run(look)
    wrong.sync()
    assert seen[0] > world.clock.now_ms + DAY_MS // 2
    assert seen[-1] <= world.clock.now_ms


@pytest.mark.spec("O4")
def test_a_clock_that_was_wrong_for_a_while_does_not_make_its_actions_wait_for_that_time(
    world, counts
):
    """The clock is right by the time of the exchange; the keys are a day ahead."""
    skew_ms = DAY_MS
    wire = Wire(world.server.connect("bob"), world.clock)
    with shop.app.open(
        ":memory:", transport=wire, clock=lambda: world.clock() + skew_ms, entropy=world.entropy
    ) as replica:
        replica.sync()
        runs = [replica.run(create_counter, id="x"), replica.run(add, id="x", by=1)]
        skew_ms = 0

        replica.sync()

        assert [run.outcome.state for run in runs] == ["accepted"] * 2
        assert all(abs(ms - world.clock.now_ms) < 1_000 for ms in moments(replica))
        assert counts(world.server) == {"x": 1}


@pytest.mark.spec("O4")
def test_who_was_offline_for_longer_than_the_server_takes_keys_back_is_stamped_anew(
    make_world, counts
):
    world = make_world(max_backdate_ms=3_600_000)
    a = world.synced("alice")
    run = a.run(create_counter, id="x")
    world.clock.now_ms += DAY_MS

    a.sync()

    assert run.outcome.state == "accepted"
    assert counts(world.server) == {"x": 0}


# ---- skew (O4) ---------------------------------------------------------------------


@pytest.mark.spec("O4")
@pytest.mark.parametrize("skew_ms", [DAY_MS, 2_000, -2_000, -DAY_MS])
def test_every_exchange_reports_how_far_the_clock_is_off(make_world, caplog, skew_ms):
    wrong = make_world().replica("bob", skew_ms=skew_ms)
    for report in (wrong.sync(), wrong.sync()):
        assert abs(report.skew_ms + skew_ms) < 10
    length = "24 h" if abs(skew_ms) == DAY_MS else "2.0 s"
    side = "ahead of" if skew_ms > 0 else "behind"
    assert f"clock is {length} {side} the server's" in caplog.text


@pytest.mark.spec("O4")
def test_a_slow_network_is_no_skew_and_a_right_clock_no_warning(world, caplog):
    a = world.synced("alice")

    class Slow(Wire):
        def exchange(self, request: SyncRequest) -> SyncAnswer:
            self.wait(30_000)
            answer = super().exchange(request)
            self.wait(30_000)
            return answer

    a._syncing._transport = Slow(world.server.connect("alice"), world.clock)
    assert a.sync().skew_ms == 0
    assert "off the server's" not in caplog.text


@pytest.mark.spec("O4")
@pytest.mark.parametrize("skew_ms", [DAY_MS, -DAY_MS])
def test_a_correction_is_taken_back_when_the_machines_clock_is_mended(make_world, counts, skew_ms):
    world = make_world(max_backdate_ms=3_600_000)
    skews = [skew_ms]
    a = world.replica("alice", clock=lambda: world.clock() + skews[0])
    a.sync()
    a.run(create_counter, id="x")
    a.sync()
    assert a._engine.state().clock_offset_ms
    skews[0] = 0
    a.sync()
    assert a._engine.state().clock_offset_ms == 0
    run = a.run(add, id="x", by=1)
    assert abs(moments(a)[-1] - world.clock.now_ms) < 1_000
    assert a.sync().skew_ms == 0
    assert run.outcome.state == "accepted"
    assert counts(a) == counts(world.server) == {"x": 1}
