"""Planted faults are noticed: what no history can break is not guarded by histories.

Some are played here, with seeds that are known to notice; `make sim MUTANTS=1` hunts all.
"""

from pathlib import Path

import pytest
from tests.mutants.hunt import hunt, plant, seeds_for
from tests.mutants.table import MUTANTS, Mutant

import synchrotron

KNOWN = [mutant for mutant in MUTANTS if mutant.seed is not None]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", KNOWN, ids=lambda mutant: mutant.rule)
def test_a_planted_fault_is_noticed(mutant: Mutant) -> None:
    found = hunt(mutant, seeds_for(mutant))
    assert found.seed is not None, f"no history noticed: {mutant.rule}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_mutant_applies(mutant: Mutant) -> None:
    source = Path(synchrotron.__file__).parent
    for file, right, _ in mutant.edits:
        assert (source / file).read_text(encoding="utf-8").count(right) == 1


def test_a_mutant_that_does_not_apply_any_more_is_an_error(tmp_path) -> None:
    gone = MUTANTS[0]._replace(right="what nobody wrote")
    with pytest.raises(LookupError, match="does not apply"):
        plant(gone, tmp_path)
