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

NUMBER = st.integers(0, 59)
STEPS = st.lists(st.tuples(st.integers(0, 99), NUMBER, NUMBER, NUMBER), max_size=40)


@pytest.mark.spec("S7", "S8", "S11", "G2", "G3")
@settings(max_examples=settings().max_examples // 2)  # each opens four files again and again
@given(steps=STEPS)
def test_random_histories_of_an_application_that_grows(
    steps: list[tuple[int, int, int, int]],
) -> None:
    play(steps)


def test_in_these_histories_everything_happens() -> None:
    seen: Counter[str] = Counter()
    for seed in range(25):
        seen += play(random_steps(seed)).seen
    names = ("upgraded", "pending", "blocked", "rebased", "replayed", "corrected")
    assert all(seen[name] > 10 for name in names), seen


FAULTS = {
    "a missing column is NULL, not its default": (
        "app/schema.py",
        "            values = {**self._defaults, **values}\n",
        "            pass\n",
    ),
    "what was left out is not read anew": (
        "store/store.py",
        "        if state.left_out:\n",
        "        if False:\n",
    ),
    "an action on unknown columns is replayed": (
        "replica/exchange.py",
        "        self.state.left_out |= effect.foreign\n",
        "        self.state.left_out |= effect.foreign\n        effect.foreign = False\n",
    ),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_turns_the_histories_red(rule: str, tmp_path: Path) -> None:
    assert_noticed(plant(tmp_path, *FAULTS[rule]), "growing.py", "--seeds", "0:100")
