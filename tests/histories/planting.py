"""Planted faults: a rule left out of a copy of the source, which random histories must notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import synchrotron

HERE = Path(__file__).parent


def plant(folder: Path, file: str, right: str, wrong: str) -> Path:
    """Copy the package into a folder, with one edit; give the folder."""
    copy = folder / "synchrotron"
    source = Path(synchrotron.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert text.count(right) == 1, f"{file} no longer holds what the fault replaces"
    (copy / file).write_text(text.replace(right, wrong))
    return folder


def assert_noticed(folder: Path, player: str, *options: str) -> None:
    """Play histories on the copy: an oracle must fail, and name the seed."""
    run = subprocess.run(
        [sys.executable, HERE / player, *options],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, f"no history noticed: {run.stdout}{run.stderr}"
    assert "seed" in run.stdout, f"it broke instead of failing an oracle: {run.stderr}"
