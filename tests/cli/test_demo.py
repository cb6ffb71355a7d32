"""The demo, as a newcomer runs it; and that it can fail."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tests.postgres.cluster import cluster, execute

from synchrotron.cli import market
from synchrotron.cli.demo import demo
from synchrotron.cli.stage import Stage, open_stage
from synchrotron.cli.story import LAPTOP, OWNERS, PHONE, STEPS, TABLET
from synchrotron.cli.verdict import differences


def command(
    *args: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m synchrotron`, with its output on a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "synchrotron", *args],
        capture_output=True,
        cwd=cwd,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80", **environment},
        check=False,
    )


def spoken(output: str) -> str:
    """The output without its line breaks."""
    return re.sub(r"\s+", " ", output)


@pytest.fixture(scope="module")
def output() -> str:
    done = command("demo", "--in-memory")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "fact",
    [
        "The server is a MemoryServer: it lives in this process, in memory.",
        # offline
        "9:01 Bob's tablet sells 3 jars of honey 2 left",
        "9:11 Bob's tablet sells 3 jars of honey refused: only 2 left",
        "visitors 1 10 2 0",
        "bakes bread nobody alice bob nobody",
        # syncing
        "Bob's tablet sends 4 actions, receives 6, replays 3, sends 5 corrections",
        "rejected 9:04 sells 4 jars of honey (OutOfStock: only 2 left)",
        "rejected 9:06 claims a task: bake bread (AlreadyClaimed: bob does it)",
        "rejected 9:07 rewrites the price list (NoteGone: 'prices' is gone)",
        "changed 9:08 counts 1 visitor (other effects on counter visitors)",
        # in the end
        "visitors 13 13 13 13",
        "ok The three replicas and the server hold the same 7 rows.",
        "ok Every visitor was counted: 10 + 1 + 2 = 13.",
        "ok No jar was sold twice: 5 jars = 1 left + 4 sold.",
        "All agree, as if everyone had been online all the time.",
    ],
)
def test_the_demo_tells_what_happened(output: str, fact: str) -> None:
    assert fact in spoken(output)


def test_the_demo_fits_a_terminal_and_a_pipe_gets_no_colours(output: str) -> None:
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output


def test_the_demo_is_the_same_every_time(output: str) -> None:
    assert command("demo", "--in-memory").stdout == output


@pytest.mark.slow
def test_on_postgresql_with_everything_in_processes_of_its_own_it_is_the_same(output: str) -> None:
    done = command("demo", "--database", cluster())
    assert (done.returncode, done.stderr) == (0, "")
    assert "The server is an HTTP server on the given PostgreSQL." in spoken(done.stdout)
    told = "1. Everyone works offline"
    assert done.stdout.partition(told)[2] == output.partition(told)[2]
    left = execute(cluster(), "SELECT datname FROM pg_database WHERE datname LIKE '%_demo_%'")
    assert left == []


def test_a_database_that_is_not_there_is_told_so() -> None:
    done = command("demo", "--database", "postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "the database cannot be reached" in spoken(done.stdout)
    assert "Traceback" not in done.stderr


def test_the_demo_is_also_told_where_there_is_only_ascii() -> None:
    done = command("demo", "--in-memory", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "All agree" in done.stdout


def test_without_agreement_the_demo_says_what_differs_and_ends_with_1() -> None:
    def count_more(stage: Stage) -> None:
        stage.replicas[LAPTOP].run(market.count, counter="visitors", by=5)

    console = Console(file=io.StringIO(), width=80)
    assert demo(console, count_more) == 1
    said = spoken(console.file.getvalue())
    assert "FAILED Nobody has anything left to send. Alice's laptop has still to send: 1" in said
    assert "counter visitors: Alice's laptop has n=18; server has n=13" in said
    assert "ok They are the rows that all 11 actions give" in said
    assert "They do not agree." in said


def test_a_row_that_is_missing_or_different_is_a_difference() -> None:
    ours = {name: [] for name in market.app.schema.tables}
    theirs = {**ours, "note": [{"name": "prices", "text": "honey: 6", "audience_key": "stall"}]}
    other = {**ours, "note": [{"name": "prices", "text": "honey: 5", "audience_key": "stall"}]}

    assert list(differences("here", ours, "there", ours)) == []
    assert list(differences("here", ours, "there", theirs)) == [
        "note prices: here has no such row; there has text='honey: 6'"
    ]
    assert list(differences("here", other, "there", theirs)) == [
        "note prices: here has text='honey: 5'; there has text='honey: 6'"
    ]


def test_what_the_demo_shows_as_rolled_back_is_what_was_replayed(tmp_path: Path) -> None:
    with open_stage(tmp_path) as stage:
        stage.open_stall()
        for step in STEPS:
            stage.carry_out(step)
        synced = [stage.sync(who) for who in [*OWNERS, *OWNERS]]

    assert [len(sync.rolled_back) for sync in synced] == [s.report.replayed for s in synced]
    assert [(s.who, s.rolled_back) for s in synced[:3]] == [
        (LAPTOP, []),
        (PHONE, [6]),
        (TABLET, [3, 5, 10]),
    ]


def test_the_version_names_what_a_bug_report_needs() -> None:
    done = command("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"synchrotron \S.*, SQLite [\d.]+, Python [\d.]+\n", done.stdout)


def test_help_lists_the_commands() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "--version" in done.stdout
