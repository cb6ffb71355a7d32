"""The demo: three replicas edit offline, conflict, sync one by one, and agree."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from synchrotron import SyncReport
from synchrotron.cli.stage import Done, MemoryStage, Stage, Synced, open_stage
from synchrotron.cli.story import JARS, OWNERS, STEPS
from synchrotron.cli.verdict import FACTS, Check, verdict
from synchrotron.testing.oracle import Tables

WIDTH = 80
ROUNDS_MAX = 10
STYLES = {
    "ok": "green",
    "FAILED": "bold red",
    "refused": "red",
    "rejected": "red",
    "changed": "yellow",
}


def demo(console: Console, meddle: Callable[[MemoryStage], object] = lambda stage: None) -> int:
    """Play and tell it all in this process. Gives the exit code: 0 if everyone agrees, else 1.

    `meddle` is called before the verdict: so a test sees the demo fail.
    """
    with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder)) as stage:
        return play(console, stage, lambda: meddle(stage))


def play(console: Console, stage: Stage, meddle: Callable[[], object] = lambda: None) -> int:
    """Play and tell it all on a stage."""
    console.width = min(console.width, WIDTH)
    introduce(console, stage)
    stage.open_stall()
    work_offline(console, stage)
    sync_one_by_one(console, stage)
    meddle()
    return 0 if conclude(console, stage) else 1


# ---- the acts ----------------------------------------------------------------------------


def introduce(console: Console, stage: Stage) -> None:
    heading(console, "Synchrotron: three replicas, two users")
    say(
        console,
        f"Alice and Bob run a market stall: {JARS} jars of honey, a count of visitors, a task, a "
        "price list. Alice has it on her laptop and her phone, Bob on his tablet. Each is a "
        f"replica: an SQLite file, here in a temporary directory. {stage.setting}",
    )


def work_offline(console: Console, stage: Stage) -> None:
    heading(console, "1. Everyone works offline")
    say(console, "Each replica answers at once, from what it knows. Nobody sees the others.")
    tell_steps(console, map(stage.carry_out, STEPS))
    say(console, "So they disagree, and some of it cannot all be true:")
    tell_facts(console, stage.held())


def sync_one_by_one(console: Console, stage: Stage) -> None:
    heading(console, "2. They sync, one by one")
    say(
        console,
        "All actions have one order: here, that of the clock. Where one arrives that is earlier "
        "than some that ran already, the replica rolls these back and runs all of them in "
        "order, rules included. What comes out differently goes to the server as a correction. "
        "Whose action ends differently is told: rejected by a rule, or changed.",
    )
    for _ in range(ROUNDS_MAX):
        synced = [stage.sync(who) for who in OWNERS]
        if all(sync.quiet for sync in synced):
            say(console, "They sync once more: nobody has anything to send or to receive.")
            return
        for sync in synced:
            tell_sync(console, sync)
    raise RuntimeError(f"no rest after {ROUNDS_MAX} rounds of syncing: please report it")


def conclude(console: Console, stage: Stage) -> bool:
    """Whether everyone agrees."""
    heading(console, "3. What everyone holds now")
    tell_facts(console, stage.held())
    checks = verdict(stage)
    for check in checks:
        tell_check(console, check)
    agreed = not any(check.against for check in checks)
    last = (
        "All agree, as if everyone had been online all the time."
        if agreed
        else "They do not agree. This must not happen: please report it."
    )
    say(console, last, style="bold green" if agreed else "bold red")
    return agreed


# ---- the words ---------------------------------------------------------------------------


def heading(console: Console, text: str) -> None:
    console.print()
    console.rule(Text(text, "bold"), align="left", style="dim")


def say(console: Console, text: str, style: str = "") -> None:
    console.print()
    console.print(indented(Text(text, style)))


def tell_steps(console: Console, steps: Iterable[Done]) -> None:
    grid = columns(4, 14, 28)
    for step, result, refused in steps:
        what = Text(result or "") if refused is None else marked("refused", refused)
        grid.add_row(at(step.minute), step.who, step.does, what)
    console.print()
    console.print(indented(grid))


def tell_sync(console: Console, sync: Synced) -> None:
    grid = columns(14)
    grid.add_row(Text(sync.who, "bold"), summary(sync.report))
    if sync.rolled_back:
        grid.add_row("  rolls back", Text(times(sync.rolled_back), "bold"))
        grid.add_row("  then runs", in_order(sync))
    for step, outcome in sync.news:
        why = f"{at(step.minute)} {step.does} ({outcome.detail})"
        grid.add_row(Text(f"  {outcome.state}", STYLES[outcome.state]), why)
    console.print()
    console.print(indented(grid))


def tell_facts(console: Console, held: dict[str, Tables]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column()
    for name in held:
        table.add_column(name)
    for fact, of in FACTS.items():
        table.add_row(fact, *(str(of(tables)) for tables in held.values()))
    console.print(indented(table))


def tell_check(console: Console, check: Check) -> None:
    grid = columns(6)
    mark = "FAILED" if check.against else "ok"
    grid.add_row(Text(mark, STYLES[mark]), check.claim)
    for difference in check.against:
        grid.add_row("", Text(difference, "red"))
    console.print(indented(grid))


def columns(*widths: int) -> Table:
    """A grid with columns of these widths, and one that takes what is left."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        grid.add_column(width=width)
    grid.add_column()
    return grid


def indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2))


def marked(mark: str, text: str) -> Text:
    return Text.assemble((mark, STYLES[mark]), f": {text}")


def summary(report: SyncReport) -> str:
    """The numbers of a report, in words."""
    actions = "action" if report.uploaded == 1 else "actions"
    corrections = "correction" if report.corrected == 1 else "corrections"
    return (
        f"sends {report.uploaded} {actions}, receives {report.received}, "
        f"replays {report.replayed}, sends {report.corrected} {corrections}"
    )


def in_order(sync: Synced) -> Text:
    """What ran: the replayed ones bold, among the new ones."""
    style = {True: "bold", False: ""}
    return Text(" ").join(Text(at(m), style[m in sync.rolled_back]) for m in sync.ran)


def times(minutes: Sequence[int]) -> str:
    return " ".join(map(at, minutes))


def at(minute: int) -> str:
    return f"9:{minute:02}"
