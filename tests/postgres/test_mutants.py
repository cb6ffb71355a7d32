"""Each rule of the PostgreSQL server that is left out turns the test red that holds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutants.hunt import plant
from tests.mutants.server import SERVER_MUTANTS, ServerMutant
from tests.mutants.table import Mutant
from tests.postgres.cluster import cluster

import synchrotron

ROOT = Path(__file__).parents[2]
BROKEN = ("PostgreSQL refuses", "SyntaxError", "NameError", "ImportError", "UndefinedFunction")
"""What tells of a fault that breaks the server, instead of leaving a rule out."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", SERVER_MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_planted_fault_turns_its_test_red(mutant: ServerMutant, tmp_path: Path) -> None:
    plant(Mutant(*mutant[:4]), tmp_path)
    ran = run(mutant.test, tmp_path)
    assert ran.returncode == 1 and "FAILED" in ran.stdout, f"nothing noticed: {ran.stdout[-3000:]}"
    broken = [word for word in BROKEN if word in ran.stdout]
    assert not broken, ran.stdout[-3000:]


@pytest.mark.slow
def test_without_a_fault_these_tests_are_green(tmp_path: Path) -> None:
    """Else a mutant would seem to be noticed whatever it does."""
    nothing = SERVER_MUTANTS[0]._replace(wrong=SERVER_MUTANTS[0].right)
    plant(Mutant(*nothing[:4]), tmp_path)
    ran = run(" ".join(sorted({mutant.test for mutant in SERVER_MUTANTS})), tmp_path)
    assert ran.returncode == 0, ran.stdout[-3000:]


@pytest.mark.parametrize("mutant", SERVER_MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_server_mutant_applies(mutant: ServerMutant) -> None:
    text = (Path(synchrotron.__file__).parent / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.right) == 1


def run(tests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run tests on the copy of the package in a folder, on this session's cluster."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "SYNCHROTRON_TEST_DATABASE": cluster(),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *tests.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
