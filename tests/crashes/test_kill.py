"""Processes killed at random moments leave a file in which every invariant holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import SEED
from tests.crashes.lives import ROOT, live_and_die

import synchrotron

LIVES = int(os.environ.get("SYNCHROTRON_LIVES", "100"))


@pytest.mark.spec("A1", "S1", "O2", "O5", "O7")
def test_a_replica_killed_at_random_moments_loses_and_repeats_nothing() -> None:
    counts = live_and_die(LIVES, SEED)
    assert counts["lives"] == LIVES
    assert counts["accepted"] > counts["runs"] > LIVES, "it did not get to do anything"


class Fault(NamedTuple):
    """A planted fault: what a kill would tear apart."""

    rule: str
    file: str
    right: str
    wrong: str


FAULTS = [
    Fault(
        "A1: the log entry is committed after the rows",
        "replica/engine.py",
        "                self.store.log.add_run(n, record, changes)\n",
        "            with self.store.database.transaction():\n"
        "                self.store.log.add_run(n, record, changes)\n",
    ),
    Fault(
        "S1: undoing is committed before the replay",
        "replica/revision.py",
        "        tables = self._undo(undone)\n",
        "        tables = self._undo(undone)\n"
        '        self._store.writer.execute("COMMIT")\n'
        '        self._store.writer.execute("BEGIN IMMEDIATE")\n',
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rule)
def test_a_kill_between_two_halves_is_noticed(fault: Fault, tmp_path: Path) -> None:
    source = Path(synchrotron.__file__).parent
    copy = tmp_path / "synchrotron"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / fault.file
    text = file.read_text()
    assert text.count(fault.right) == 1, f"{fault.file} no longer holds what the fault replaces"
    file.write_text(text.replace(fault.right, fault.wrong))
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
