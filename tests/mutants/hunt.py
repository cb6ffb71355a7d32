"""Hunting mutants: how many seeds each takes to be noticed.

    python -m tests.mutants.hunt               # all, from seed 0 on, as a table
    python -m tests.mutants.hunt --quick       # with the seeds that are known to notice

A mutant is played in processes of its own, on a copy of the source: no hook in the code
exists for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from tests.mutants.table import MUTANTS, Mutant

import synchrotron

SEEDS_MAX = 200
PLAY = """
import json, sys
from synchrotron.testing.simulation import Trial
first, *seeds = json.loads(sys.argv[1])
for tried, seed in enumerate([first, *seeds], 1):
    result = Trial(seed=seed).play()
    if result.failure:
        found = {"seed": seed, "tried": tried, "rule": result.failure.rule}
        if sys.argv[2] == "shrink":
            found["steps"] = len(Trial(seed=seed).explained(result.failure).steps)
        print(json.dumps(found | {"what": result.failure.what.partition("\\n")[0]}))
        break
else:
    print(json.dumps({"tried": len(seeds) + 1}))
"""


class Catch(NamedTuple):
    """What noticed a mutant."""

    mutant: Mutant
    tried: int
    """How many seeds were played."""
    seed: int | None = None
    """The one that noticed; None if none did."""
    rule: str = ""
    what: str = ""
    steps: int | None = None
    """To how many steps the failure shrank."""


def plant(mutant: Mutant, folder: Path) -> None:
    """A copy of the source with the fault in it. Raises `LookupError` if it does not apply."""
    copy = folder / "synchrotron"
    source = Path(synchrotron.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file, right, wrong in mutant.edits:
        text = (copy / file).read_text(encoding="utf-8")
        if (times := text.count(right)) != 1:
            raise LookupError(
                f"mutant {mutant.rule!r} does not apply: what it replaces is {times} times "
                f"in {file}"
            )
        (copy / file).write_text(text.replace(right, wrong), encoding="utf-8")


def hunt(mutant: Mutant, seeds: list[int], *, shrink: bool = False) -> Catch:
    """Play the mutant with these seeds until one notices."""
    with tempfile.TemporaryDirectory(prefix="synchrotron-mutant-") as name:
        plant(mutant, Path(name))
        run = subprocess.run(
            [sys.executable, "-c", PLAY, json.dumps(seeds), "shrink" if shrink else "play"],
            env={**os.environ, "PYTHONPATH": name},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, f"mutant {mutant.rule!r} broke the simulator: {run.stderr}"
    return Catch(mutant, **json.loads(run.stdout))


def seeds_for(mutant: Mutant) -> list[int]:
    """The seed that is known to notice, if any, then those that everyone tries."""
    known = [] if mutant.seed is None else [mutant.seed]
    return [*known, *(seed for seed in range(SEEDS_MAX) if seed not in known)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="first the seeds known to notice")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="how many at most")
    parser.add_argument("--only", default="", help="mutants whose rule has this text")
    parser.add_argument("--shrink", action="store_true", help="shrink each failure")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    console = Console(highlight=False)

    def catch(mutant: Mutant) -> Catch:
        seeds = seeds_for(mutant) if options.quick else list(range(options.seeds))
        found = hunt(mutant, seeds, shrink=options.shrink)
        steps = "" if found.steps is None else f", in {found.steps} steps"
        seen = f"{found.rule}: seed {found.seed}{steps}" if found.rule else "NOT NOTICED"
        console.print(f"{mutant.rule}: {seen}", markup=False, soft_wrap=True)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:  # each waits for a process
        found = list(pool.map(catch, [m for m in MUTANTS if options.only in m.rule]))
    console.print(table_of(found))
    return int(any(catch.seed is None for catch in found))


def table_of(found: list[Catch]) -> Table:
    table = Table("mutant", "noticed as", "seeds", "seed", "steps", title="mutants")
    for catch in found:
        table.add_row(
            catch.mutant.rule,
            catch.rule or "not noticed",
            str(catch.tried),
            "" if catch.seed is None else str(catch.seed),
            "" if catch.steps is None else str(catch.steps),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
