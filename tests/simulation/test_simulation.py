"""The simulator: random histories hold every rule, and what breaks one is told so that it helps."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.replica.guestbook import guestbook

from synchrotron import App, Context
from synchrotron.errors import ActionDefinitionError, UsageError
from synchrotron.testing import Simulation, SimulationFailed
from synchrotron.testing.simulation import Trial
from synchrotron.testing.simulation.climate import Climate
from synchrotron.testing.simulation.shrink import shrink

SHOP = """CREATE TABLE item (
    id TEXT PRIMARY KEY, stock INTEGER NOT NULL,
    audience_key TEXT GENERATED ALWAYS AS ('shop') STORED)"""


def make_shop(*, sampled: bool = True, checks: bool = True, pure: bool = True) -> App:
    app = App("shop", schema=SHOP)

    @app.action(audience="shop")
    def add(ctx: Context, *, item: str) -> None:
        ctx.execute("INSERT INTO item (id, stock) VALUES (?, 1)", (item,))

    @app.action(audience="shop")
    def sell(ctx: Context, *, item: str) -> None:
        if checks and not ctx.execute("SELECT 1 FROM item WHERE id = ? AND stock > 0", (item,)):
            raise LookupError(f"no {item} left")
        ctx.execute("UPDATE item SET stock = stock - 1 WHERE id = ?", (item,))

    runs = Counter[str]()

    @app.action(audience="shop")
    def restock(ctx: Context, *, item: str) -> None:
        runs[item] += 0 if pure else 1
        ctx.execute("UPDATE item SET stock = 3 + ? WHERE id = ?", (runs[item], item))

    @add.sample
    def _(rng, query):
        return {"item": f"item {rng.randrange(5)}"}

    @sell.sample
    def _(rng, query):
        item = query.one(rng, "SELECT id FROM item")
        return None if item is None else {"item": item}

    if sampled:
        restock.sample(sell.sampler)
    return app


def simulate(app: App, seed: int, **options) -> Simulation:
    options = {"users": ("ann", "bob"), "audiences": {"ann": {"shop"}, "bob": {"shop"}}} | options
    return Simulation(app, seed=seed, **options)


# ---- the core ----------------------------------------------------------------------


@pytest.mark.spec("S1", "S2", "S3", "S4", "S7", "S8", "O5", "M3")
@pytest.mark.parametrize("part", range(4))
def test_random_histories_hold_every_rule(part: int) -> None:
    for seed in range(part * 3, part * 3 + 3):
        Trial(seed=seed).run()


@pytest.mark.spec("S7", "S8", "S4")
@settings(max_examples=10)  # opening replicas and settling is most of a short history
@given(seed=st.integers(10_000_000, 2**40), steps=st.integers(0, 40))
def test_short_random_histories_hold_every_rule(seed: int, steps: int) -> None:
    Trial(seed=seed, steps=steps).run()


def test_histories_roll_back_correct_and_get_into_all_kinds_of_trouble() -> None:
    """Histories in which nothing happens would hold every rule."""
    results = [Trial(seed=seed).play() for seed in range(12)]
    total = results[0]
    for result in results[1:]:
        total.add(result)
    runs, effects, _ = total.runs
    assert runs >= 60 * len(results)
    assert effects * 3 > runs * 2, "fewer than a third are without effect"
    assert total.totals["rolled back"] * 2 >= len(results)
    assert min(total.totals[name] for name in ("corrected", "rejected", "changed", "parked")) > 5
    assert min(total.faults[kind] for kind in ("request lost", "answer lost", "crash")) > 5


DIGESTS = (
    "from synchrotron.testing.simulation import Trial\n"
    "print([Trial(seed=seed).play().digest for seed in range(3)])"
)


def test_one_seed_is_one_history_whatever_the_hash_seed() -> None:
    def digests(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert digests("1") == digests("2")


# ---- an application's own ----------------------------------------------------------


def test_an_applications_own_actions_are_simulated_and_counted() -> None:
    never = ["SELECT * FROM item WHERE stock < 0"]
    result = simulate(make_shop(), 1, invariants=never, climate=Climate()).run()
    assert set(result.actions) == {"add", "sell", "restock"}
    assert all(tally.runs >= tally.effects > 0 for tally in result.actions.values())
    assert result.totals["serial"] == 1, "both see and may write everything"


def test_an_action_without_a_sample_is_refused_by_name() -> None:
    with pytest.raises(ActionDefinitionError, match=r"no sample for action 'restock'"):
        Simulation(make_shop(sampled=False))


def test_an_application_without_actions_is_refused() -> None:
    with pytest.raises(UsageError, match="no actions"):
        Simulation(App("shop", schema=SHOP))


def failure_of(app: App, **options) -> SimulationFailed:
    for seed in range(30):
        try:
            simulate(app, seed, **options).run()
        except SimulationFailed as failed:
            return failed
    raise AssertionError("no history noticed")


def test_a_broken_invariant_is_told_with_the_shortest_story_and_how_to_run_it_again() -> None:
    broken = make_shop(checks=False)
    failed = failure_of(broken, invariants=["SELECT * FROM item WHERE stock < 0"])
    story = str(failed)
    assert failed.failure.rule == "invariant"
    assert len(failed.steps) <= 3, story
    assert "runs sell(item='item" in story
    assert "stock < 0" in story
    numbers = ",".join(str(step.number) for step in failed.steps)
    assert f"--only {numbers}" in story

    seed = int(story.partition("seed ")[2].partition(" ")[0])
    again = simulate(broken, seed, invariants=["SELECT * FROM item WHERE stock < 0"])
    found = again.play([step.number for step in failed.steps]).failure
    assert found is not None and found.rule == "invariant", "the command repeats it"


def test_an_impure_action_is_noticed() -> None:
    """Each replay does something else: nobody agrees with anybody."""
    assert failure_of(make_shop(pure=False)).failure.rule in ("S4", "S7", "S8", "S12")


@pytest.mark.spec("S12")
def test_actions_that_write_side_by_side_are_left_in_place() -> None:
    """The history comes out the same to the byte, and much of it need not run again."""
    guests = simulate(guestbook([]), 2, steps=64, audiences={"ann": {"all"}, "bob": {"all"}})
    guests.plays_both_ways = True
    some, all = (guests._play_once(guests.steps, replay_all=replays) for replays in (False, True))
    assert (some.failure, all.failure) == (None, None)
    assert some.digest == all.digest
    assert some.totals["replayed"] < all.totals["replayed"]


def test_a_climate_can_be_chosen() -> None:
    calm = simulate(make_shop(), 1, climate=Climate(latency_ms=0))
    assert not calm.run().faults


# ---- shrinking ---------------------------------------------------------------------


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4))
def test_shrinking_finds_the_items_that_it_takes(needed: set[int]) -> None:
    found = shrink(list(range(31)), lambda items: needed <= set(items), 1_000)
    assert set(found) == needed


def test_shrinking_asks_no_more_often_than_it_may() -> None:
    asked: list[int] = []
    shrink(list(range(100)), lambda items: bool(asked.append(len(items))), 7)
    assert len(asked) == 7


def test_users_undo_actions_unless_the_application_does_not_let_them() -> None:
    told = {
        undo: [
            line
            for seed in range(12)
            for line in Simulation(make_shop(), seed=seed, steps=24, undo=undo).play().story
        ]
        for undo in (True, False)
    }
    assert any(" undoes " in line for line in told[True])
    assert not any(" undoes " in line for line in told[False])
