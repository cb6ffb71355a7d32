"""`synchrotron bench`: the benchmarks of a checkout, or a short one that comes along.

The short one tells of this machine what an application feels: what a run costs beside a plain
transaction, and that taking others' actions in costs what has diverged, not what there is.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from synchrotron import App, Context, Replica
from synchrotron.app.ddl import NEW_ID
from synchrotron.testing import MemoryServer

TURNS, TIMES = 20, 50
HISTORIES = (500, 5_000)
ROUNDS = 30
BATCH = 1_000

app = App(
    "bench",
    schema="""
        CREATE TABLE note (
            id TEXT PRIMARY KEY,
            text TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
    """,
)


@app.action(audience="all")
def write(ctx: Context, *, id: str) -> None:
    ctx.execute("INSERT INTO note (id, text) VALUES (?, 'Buy milk')", (id,))


def bench(console: Console, names: list[str], *, short: bool) -> int:
    """Measure, and print tables; the exit code."""
    here = Path.cwd()
    if not short and (here / "benchmarks" / "__main__.py").exists():
        return subprocess.run([sys.executable, "-m", "benchmarks", *names], check=False).returncode
    if names:
        console.print(
            f"there are no benchmarks in {here}: {', '.join(names)} can be run in a checkout of "
            "the source; without a name, the short one runs anywhere",
            style="red",
            markup=False,
        )
        return 2
    with TemporaryDirectory() as folder, Progress(console=console, transient=True) as bar:
        rows = [*_local_runs(Path(folder), bar), *_reconciling(Path(folder), bar)]
    table = Table("what", "median", title="on this machine", title_justify="left")
    table.columns[1].justify = "right"
    for what, measured in rows:
        table.add_row(what, measured)
    console.print(table)
    return 0


def _local_runs(folder: Path, bar: Progress) -> list[tuple[str, str]]:
    """An insert as an action, and as a plain transaction on the same tables, in turns."""
    ids = map(str, itertools.count())
    plain = _plain_database(folder / "plain.db")
    with app.open(folder / "replica.db", user="alice") as replica:
        times_us: dict[str, list[float]] = {"plain": [], "run": []}
        things = {
            "plain": lambda: _insert(plain, next(ids)),
            "run": lambda: replica.run(write, id=next(ids)),
        }
        for _ in bar.track(range(TURNS), description="runs"):
            for name, thing in things.items():
                times_us[name].append(_time_us(thing, TIMES))
    plain.close()
    plain_us, run_us = map(statistics.median, times_us.values())
    return [
        ("an insert in a plain transaction", f"{plain_us:.0f} µs"),
        ("the same as an action", f"{run_us:.0f} µs ({run_us / plain_us:.1f} times)"),
    ]


def _plain_database(path: Path) -> apsw.Connection:
    """The same tables and settings as a replica's, without the replica."""
    plain = apsw.Connection(str(path))
    plain.create_scalar_function(NEW_ID, lambda *_: "")
    plain.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
    plain.execute("PRAGMA wal_autocheckpoint = 4000")
    for statement in app.schema.statements:
        plain.execute(statement)
    return plain


def _insert(plain: apsw.Connection, id: str) -> None:
    plain.execute("BEGIN IMMEDIATE")
    plain.execute("INSERT INTO note (id, text) VALUES (?, 'Buy milk')", (id,))
    plain.execute("COMMIT")


def _reconciling(folder: Path, bar: Progress) -> list[tuple[str, str]]:
    """One action undone, two run, one sent: behind a short and a long history."""
    return [
        (
            f"a sync that replays 1 action behind {history:,}",
            f"{_reconciled_us(folder, history, bar) / 1000:.1f} ms",
        )
        for history in HISTORIES
    ]


def _reconciled_us(folder: Path, history: int, bar: Progress) -> float:
    ids, moments = map(str, itertools.count()), itertools.count(1_000_000)
    server = MemoryServer(
        app, {user: {"all"} for user in ("alice", "bob")}, clock=lambda: next(moments)
    )

    def opened(user: str) -> Replica:
        path = folder / f"{user}-{history}.db"
        return app.open(path, transport=server.connect(user), clock=lambda: next(moments))

    with opened("alice") as alice, opened("bob") as bob:
        alice.sync(), bob.sync()
        for n in bar.track(range(1, history + 1), description=f"history of {history:,}"):
            alice.run(write, id=next(ids))
            if n % BATCH == 0 or n == history:
                alice.sync(), bob.sync()
        times_us = []
        for _ in bar.track(range(ROUNDS), description="syncs"):
            alice.run(write, id=next(ids))  # comes first …
            bob.run(write, id=next(ids))
            alice.sync()
            times_us.append(_time_us(bob.sync))  # … so that Bob's is undone and run again
            alice.sync()
    return statistics.median(times_us)


def _time_us(thing: Callable[[], object], times: int = 1) -> float:
    start_ns = time.perf_counter_ns()
    for _ in range(times):
        thing()
    return (time.perf_counter_ns() - start_ns) / 1_000 / times
