"""Random histories hold every oracle, and planted faults turn them red."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from planting import assert_noticed, plant  # noqa: E402
from play import SETTINGS, play, random_steps  # noqa: E402

NUMBER = st.integers(0, 59)
STEPS = st.lists(st.tuples(st.integers(0, 99), NUMBER, NUMBER, NUMBER), max_size=50)


@pytest.mark.spec("S1", "S2", "S3", "S7", "S4", "S8", "O5")
@pytest.mark.parametrize("setting", SETTINGS)
@given(steps=STEPS)
def test_random_histories_end_with_what_running_all_actions_in_order_gives(
    setting: str, steps: list[tuple[int, int, int, int]]
) -> None:
    play(SETTINGS[setting], steps)


@pytest.mark.parametrize("setting", SETTINGS)
def test_long_histories_from_seeds_hold_every_oracle(setting: str) -> None:
    for seed in range(8):
        play(SETTINGS[setting], random_steps(seed))


def test_the_histories_make_replicas_roll_back_correct_and_be_refused() -> None:
    """Histories in which nothing happens would hold every oracle."""
    seen = {"replayed": 0, "corrected": 0, "parked": 0, "rejected": 0, "changed": 0}
    for setting in ("plain", "views"):
        for seed in range(25):
            world = play(SETTINGS[setting], random_steps(seed))
            for name in seen:
                seen[name] += getattr(world.report, name)
    assert min(seen.values()) > 5, seen


class Fault(NamedTuple):
    """A planted fault: one rule left out of a copy of the source."""

    rule: str
    file: str
    right: str
    wrong: str
    setting: str


FAULTS = [
    Fault(
        "no standing",
        "core/correction.py",
        "return self.unsettled or self.newest > basis",
        "return False",
        "plain",
    ),
    Fault(
        "always standing",
        "core/correction.py",
        "return self.unsettled or self.newest > basis",
        "return True",
        "views",
    ),
    Fault(
        "S3: what came first stays, corrections do not replace it",
        "replica/exchange.py",
        "if effect.known is not None and effect.known.seq >= known.seq:",
        "if effect.known is not None:",
        "churn",
    ),
    Fault(
        "S5: a denied correction is sent again",
        "replica/exchange.py",
        "        effect.denied = True\n",
        "",
        "views",
    ),
    Fault(
        "S6: a replay writes rows that the user may not see",
        "replica/revision.py",
        "visible=target.audience in self.state.audiences",
        "visible=True",
        "churn",
    ),
    Fault(
        "S9: a patch applies to a row of another audience",
        "store/rows.py",
        "            if found is not None and found[1] != target.audience:\n"
        "                continue\n",
        "",
        "churn",
    ),
    Fault(
        "S10: a replica corrects an action whose code it lacks",
        "replica/revision.py",
        "            return Attempt({}, may_correct=False)\n        try:",
        "            return Attempt({})\n        try:",
        "opaque",
    ),
    Fault(
        "O6: a restored file goes on under its old id",
        "replica/exchange.py",
        "    state.client_id = ClientId(new_client_id(entropy))\n",
        "",
        "restored",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rule)
def test_a_planted_fault_turns_the_histories_red(fault: Fault, tmp_path: Path) -> None:
    copy = plant(tmp_path, fault.file, fault.right, fault.wrong)
    assert_noticed(copy, "play.py", "--setting", fault.setting, "--seeds", "0:300")
