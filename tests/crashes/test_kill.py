"""Processes killed at random moments leave a file in which every invariant holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import SEED
from tests.crashes.lives import ROOT, live_and_die
from tests.mutants.hunt import plant
from tests.mutants.table import Mutant

pytestmark = pytest.mark.slow

LIVES = int(os.environ.get("SYNCHROTRON_LIVES", "60"))


@pytest.mark.spec("A1", "S1", "O2", "O5", "O7")
def test_a_replica_killed_at_random_moments_loses_and_repeats_nothing() -> None:
    counts = live_and_die(LIVES, SEED)
    assert counts["lives"] == LIVES
    assert counts["accepted"] > counts["runs"] > LIVES, "it did not get to do anything"


MUTANTS = [
    Mutant(
        "A1: the log entry is committed after the rows",
        "replica/engine.py",
        "                self.store.log.add_run(n, record, changes, rests_on)\n",
        "            __import__('time').sleep(0.003)\n"
        "            with self.store.database.transaction():\n"
        "                self.store.log.add_run(n, record, changes)\n",
    ),
    Mutant(
        "S1: undoing is committed before the replay",
        "replica/revision.py",
        "        gone = self._prepare(places)\n",
        "        gone = self._prepare(places)\n"
        '        self._store.writer.execute("COMMIT")\n'
        "        __import__('time').sleep(0.003)\n"
        '        self._store.writer.execute("BEGIN IMMEDIATE")\n',
    ),
]
"""What a kill would tear apart. They wait between the halves, so that few deaths show it."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_kill_between_two_halves_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    plant(mutant, tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "tests.crashes.lives", "--lives", "400", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, f"no death noticed: {run.stdout}{run.stderr}"
    assert "failed: " in run.stdout, f"it broke: {run.stdout}{run.stderr}"
