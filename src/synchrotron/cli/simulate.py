"""Simulating from the command line: many seeds with a progress bar, or one as a story."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from synchrotron.errors import SynchrotronError
from synchrotron.testing.simulation.many import Played, Recipe, play_many
from synchrotron.testing.simulation.simulation import Failure, Result

FAILURES_SHOWN_MAX = 20


def simulate_many(console: Console, recipe: Recipe, seeds: Sequence[int], jobs: int | None) -> int:
    """Play all seeds; print a table, and the story of the first failure. The exit code."""
    if problem := _problem(recipe):
        console.print(problem, style="red", markup=False)
        return 2
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(seeds) // 10))
    found = Played(Result(), {})
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("histories", total=len(seeds))
        for played in play_many(recipe, seeds, jobs):
            found.result.add(played.result)
            found.failures.update(played.failures)
            failed = f", {len(found.failures)} failed" if found.failures else ""
            bar.update(task, advance=played.result.seeds, description=f"histories{failed}")
    print_tables(console, found.result)
    if not found.failures:
        return 0
    _print_failures(console, recipe, found.failures)
    return 1


def simulate_one(
    console: Console, recipe: Recipe, seed: int, only: Sequence[int] | None, *, tell: bool
) -> int:
    """Play one seed, or some of its steps; a failure is told as it is, with what to run."""
    if problem := _problem(recipe):
        console.print(problem, style="red", markup=False)
        return 2
    simulation = recipe.simulation(seed)
    result = simulation.play(only)
    if result.failure is not None:
        print_plainly(console, str(simulation.explained(result.failure, only)))
        return 1
    if tell:
        print_plainly(console, "\n".join(result.story))
    print_tables(console, result)
    print_plainly(console, f"seed {seed} holds every rule; the digest of its history is")
    print_plainly(console, result.digest)
    return 0


def _problem(recipe: Recipe) -> str | None:
    try:
        recipe.simulation(0)
    except SynchrotronError as error:
        return str(error)
    return None


def _print_failures(console: Console, recipe: Recipe, failures: dict[int, Failure]) -> None:
    first = min(failures)
    console.print("shrinking the first failure …", style="dim")
    print_plainly(console, str(recipe.simulation(first).explained(failures[first])))
    print_plainly(console, f"\nOf these seeds {len(failures)} failed:")
    for seed in sorted(failures)[:FAILURES_SHOWN_MAX]:
        failure = failures[seed]
        summary = failure.what.partition("\n")[0]
        print_plainly(console, f"  seed {seed}: {failure.rule}: {summary}")


def print_plainly(console: Console, text: str) -> None:
    """As it is: to be copied from."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


# ---- tables -----------------------------------------------------------------------


def print_tables(console: Console, result: Result) -> None:
    runs, totals = result.runs, result.totals
    summary = Table(title="histories", title_justify="left", show_header=False)
    for name, value in (
        ("histories", result.seeds),
        ("with a rollback", _share(totals["rolled back"], result.seeds)),
        ("in which all saw all to the end", _share(totals["serial"], result.seeds)),
        ("actions run", runs.runs),
        ("with an effect at once", _share(runs.effects, runs.runs)),
        ("refused by the application at once", _share(runs.raised, runs.runs)),
        ("actions replayed", totals["replayed"]),
        ("accepted", totals["uploaded"]),
        ("corrections accepted", totals["corrected"]),
        ("rejected on replay", totals["rejected"]),
        ("parked", totals["parked"]),
        ("exchanges", totals["rounds"]),
        ("commits of the server", totals["commits"]),
        ("snapshots taken", totals["rebased"]),
    ):
        summary.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    faults = Table(title="trouble made", title_justify="left", show_header=False)
    for name, count in sorted(result.faults.items()):
        faults.add_row(name, f"{count:,}")
    actions = Table("action", "runs", "with an effect", "refused", title="actions")
    for column in actions.columns[1:]:
        column.justify = "right"
    for name, tally in sorted(result.actions.items()):
        effects = _share(tally.effects, tally.runs)
        actions.add_row(name, f"{tally.runs:,}", effects, f"{tally.raised:,}")
    for table in (summary, faults, actions):
        console.print(table)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.0f} %)" if whole else f"{part:,}"
