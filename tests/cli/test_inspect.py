"""`status`, `log`, `outcomes`, `doctor`, `bench` and the help, as one meets them."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.test_demo import command, spoken
from tests.replica import shop
from tests.replica.shop import create_project, create_todo
from typer.testing import CliRunner

from synchrotron.cli import main
from synchrotron.testing import MemoryServer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alice's file: a sale of hers is rejected, since Bob sold the last cup before her."""
    folder = tmp_path_factory.mktemp("inspect")
    clock = itertools.count(1_800_000_000_000, 1000).__next__
    sets = {user: {"all", "project:p"} for user in ("alice", "bob")}
    server = MemoryServer(shop.app, sets, clock=clock)
    alice, bob = (
        shop.app.open(folder / f"{user}.db", transport=server.connect(user), clock=clock)
        for user in ("alice", "bob")
    )
    with alice, bob:
        alice.run(shop.put_on_sale, id="cup", stock=1)
        alice.sync(), bob.sync()
        bob.run(shop.buy, id="cup")
        alice.run(shop.buy, id="cup")
        bob.sync(), alice.sync()
        alice.run(create_project, id="p")
        alice.run(create_todo, project="p", text="[b]Buy[/b] milk")
    return folder / "alice.db"


def run(*args: str | Path, exit_code: int = 0, **environment: str) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(main, [*map(str, args)], env={"COLUMNS": "100", **environment})
    assert done.exit_code == exit_code, done.output
    return done.output


def test_status_tells_where_a_replica_stands(path: Path) -> None:
    told = spoken(run("status", path))
    for fact in (
        "application shop, 0 migrations",
        "user alice",
        "item 1",
        "audiences all, project:p",
        "to send: 2 actions (since 2027-01-15",
        "1 rejected",
    ):
        assert fact in told
    found = json.loads(run("status", path, "--json"))
    assert (found["pending"], found["history"], found["synced"]) == (2, 5, True)
    assert found["outcomes"] == {"accepted": 1, "pending": 2, "rejected": 1}
    assert found["rows"]["todo"] == 1


def test_log_tells_everyones_actions_in_order_and_what_each_did(path: Path) -> None:
    told = spoken(run("log", path))
    order = ["put_on_sale", "bob buy", "alice buy", "create_project", "create_todo"]
    assert [told.find(name) for name in order] == sorted(told.find(name) for name in order)
    assert "rejected: OutOfStock: no 1 of cup" in told
    assert 'text="[b]Buy[/b]' in told, "what users wrote is not taken for markup"
    assert "5 of 5" in told
    lines = [json.loads(line) for line in run("log", path, "--json").splitlines()]
    assert [line["name"] for line in lines] == [
        "put_on_sale", "buy", "buy", "create_project", "create_todo",
    ]  # fmt: skip
    assert lines[0]["patches"][0]["columns"] == {"id": "cup", "scope": "all", "stock": 1}
    assert lines[2]["patches"] == []


def test_log_can_be_shortened_to_the_newest_and_to_what_waits(path: Path) -> None:
    def names(*options: str) -> list[str]:
        lines = run("log", path, "--json", *options).splitlines()
        return [json.loads(line)["name"] for line in lines]

    assert names("--last", "2") == ["create_project", "create_todo"]
    assert names("--pending") == ["create_project", "create_todo"]
    assert names("--pending", "--last", "1") == ["create_todo"]
    assert len(names("--last", "0")) == 5


def test_outcomes_tell_ids_and_reasons(path: Path) -> None:
    told = spoken(run("outcomes", path, "--state", "rejected"))
    assert "OutOfStock: no 1 of cup" in told and "1 action of" in told
    [line] = run("outcomes", path, "--state", "rejected", "--json").splitlines()
    outcome = json.loads(line)
    assert (outcome["state"], outcome["name"]) == ("rejected", "buy")
    assert outcome["id"] in told
    assert "choose of" in run("outcomes", path, "--state", "lost", exit_code=2)


def test_doctor_says_that_all_is_well_or_what_is_not_and_ends_so(
    path: Path, tmp_path: Path
) -> None:
    assert "is sound" in spoken(run("doctor", path, "--app", "tests.replica.shop:app"))
    assert json.loads(run("doctor", path, "--json"))["faults"] == 0
    broken = tmp_path / "broken.db"
    broken.write_bytes(path.read_bytes())
    with sqlite3.connect(broken) as connection:
        connection.execute("DROP TRIGGER synchrotron_guard_todo_update")
    connection.close()
    told = spoken(run("doctor", broken, exit_code=1))
    assert "other programs may UPDATE on todo" in told and "not looked at" in told
    assert "1 fault" in told and "move the file" in told
    assert json.loads(run("doctor", broken, "--json", exit_code=1))["faults"] == 1


@pytest.mark.parametrize("name", ["status", "log", "outcomes", "doctor"])
def test_a_file_that_is_none_is_an_error_on_stderr_and_the_end_is_1(
    name: str, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("milk\n" * 1000)
    done = CliRunner().invoke(main, [name, str(text)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no SQLite database" in spoken(done.stderr)
    assert "Traceback" not in done.stderr


def test_two_keys_or_a_bad_one_are_a_wrong_call(path: Path) -> None:
    assert "one key" in run("status", path, "--key", "a", "--hex-key", "00", exit_code=2)
    assert "hexadecimal" in run("status", path, SYNCHROTRON_HEX_KEY="xyz", exit_code=2)


@pytest.mark.slow
def test_bench_without_a_checkout_measures_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = spoken(run("bench"))
    assert re.search(r"the same as an action .* \d+ µs \(\d", told)
    assert "behind 5,000" in told
    assert "no benchmarks in" in spoken(run("bench", "local_run", exit_code=2))


# ---- help --------------------------------------------------------------------------------


def commands() -> list[str]:
    names = [
        each.name or getattr(each.callback, "__name__", "") for each in main.registered_commands
    ]
    assert "doctor" in names
    return names


@pytest.mark.parametrize("name", commands())
def test_the_help_of_every_command_says_how_it_ends_and_gives_examples(name: str) -> None:
    told = spoken(run(name, "--help"))
    assert "Examples" in told and f"synchrotron {name} " in told
    assert re.search(r"[Ee]nds with 0|Print a signed token", told)


def test_no_option_lacks_its_words() -> None:
    group: Any = typer.main.get_command(main)
    silent = [
        (name, parameter.name)
        for name, each in group.commands.items()
        for parameter in each.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


def test_the_command_alone_teaches_where_to_begin_and_ends_with_2() -> None:
    done = command()
    assert done.returncode == 2
    for word in ("To look into a replica's file", "Begin with: synchrotron demo"):
        assert word in spoken(done.stdout + done.stderr)
