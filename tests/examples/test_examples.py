"""The examples' own tests pass, each run in its folder as its README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
WITH_TESTS = sorted(path.parent for path in EXAMPLES.glob("*/tests"))


@pytest.mark.slow
@pytest.mark.parametrize("example", WITH_TESTS, ids=lambda path: path.name)
def test_an_example_passes_its_own_tests(example: Path) -> None:
    # Its own configuration and our plugin, as for anyone; nothing of the run that asks for it.
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=example,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_there_are_examples_with_tests() -> None:
    assert {"inventory", "issues"} <= {path.name for path in WITH_TESTS}
