"""Replicas of old and new versions, side by side and upgraded, hold every oracle."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from growing import play, random_steps
from planting import assert_noticed, plant

pytestmark = pytest.mark.slow

NUMBER = st.integers(0, 59)
STEPS = st.lists(st.tuples(st.integers(0, 99), NUMBER, NUMBER, NUMBER), max_size=40)


@pytest.mark.spec("S7", "S8", "S11", "G2", "G3")
@settings(max_examples=settings().max_examples // 5)  # each opens four files again and again
@given(steps=STEPS)
def test_random_histories_of_an_application_that_grows(
    steps: list[tuple[int, int, int, int]],
) -> None:
    play(steps)


def test_in_these_histories_everything_happens() -> None:
    seen: Counter[str] = Counter()
    for seed in range(15):
        seen += play(random_steps(seed)).seen
    names = ("upgraded", "pending", "blocked", "rebased", "replayed", "corrected")
    assert all(seen[name] > 5 for name in names), seen


FAULTS = {
    "a missing column is NULL, not its default": (
        "app/schema.py",
        "            values = {**self._defaults, **values}\n",
        "            pass\n",
        "0:10",
    ),
    "what was left out is not read anew": (
        "store/store.py",
        "        if state.left_out:\n",
        "        if False:\n",
        "0:10",
    ),
    "an action on unknown columns is replayed": (
        "replica/exchange.py",
        "        self.state.left_out |= effect.foreign\n",
        "        self.state.left_out |= effect.foreign\n        effect.foreign = False\n",
        "50:60",
    ),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_turns_the_histories_red(rule: str, tmp_path: Path) -> None:
    *edit, seeds = FAULTS[rule]  # among these one is known to notice
    assert_noticed(plant(tmp_path, *edit), "growing.py", "--seeds", seeds)
