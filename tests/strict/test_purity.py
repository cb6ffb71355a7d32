"""`check_purity`: what only another process, or another user's rows, can show."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.strict import impurities
from tests.strict.test_impurities import REFUSED, WARNED, impure_line

from synchrotron import App, Context, Replica
from synchrotron.elsewhere.copies import rows_of
from synchrotron.elsewhere.views import run_under_views
from synchrotron.errors import DeterminismWarning
from synchrotron.testing import Impure, check_purity


@pytest.fixture
def replica() -> Iterator[Replica]:
    with impurities.app.open(":memory:", user="alice", strict=False) as opened:
        opened.run(impurities.fill)
        yield opened


PLANTED = [
    "wall_clock",
    "unordered_limit",
    "shared_dice",
    "random_uuid",
    "module_level_counter",
    "network_call",
]
"""Of the ten, those that a run in this process shows; see test_impurities for all."""


@pytest.mark.spec("A3")
@pytest.mark.parametrize("name", PLANTED)
def test_what_strict_mode_refuses_is_impure(replica: Replica, name: str) -> None:
    action = getattr(impurities, name)
    with pytest.raises(Impure) as caught:
        check_purity(replica, action)
    assert impure_line(action) in str(caught.value)
    assert REFUSED[name] in str(caught.value)


@pytest.mark.spec("A3")
@pytest.mark.parametrize("name", ["environment"])
def test_what_strict_mode_warns_of_is_warned_of(replica: Replica, name: str) -> None:
    action = getattr(impurities, name)
    with pytest.warns(DeterminismWarning) as caught:
        check_purity(replica, action)
    [warning] = caught
    assert impure_line(action) in str(warning.message)
    assert WARNED[name] in str(warning.message)


@pytest.mark.spec("A3")
@pytest.mark.parametrize("name", ["set_order", "hash_of_a_text"])
def test_what_another_process_does_otherwise_is_impure_at_its_line(
    replica: Replica, name: str
) -> None:
    action = getattr(impurities, name)
    before = replica.query("SELECT * FROM note")
    with pytest.raises(Impure, match="PYTHONHASHSEED=") as caught:
        check_purity(replica, action)
    assert impure_line(action) in str(caught.value)
    assert "use sorted(…)" in str(caught.value)
    assert replica.query("SELECT * FROM note") == before
    assert [record.name for record in replica.log()] == ["fill"]


def test_the_time_zone_and_errors_are_compared_too(replica: Replica) -> None:
    with pytest.raises(Impure, match=r"TZ=.*raised LookupError"):
        check_purity(replica, impurities.local_time)


def test_a_pure_action_passes_and_leaves_nothing_behind(replica: Replica) -> None:
    before = replica.query("SELECT * FROM note")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_purity(replica, impurities.pure)
    assert replica.query("SELECT * FROM note") == before
    assert [record.name for record in replica.log()] == ["fill"]


def test_an_application_that_no_module_holds_is_warned_of() -> None:
    app = App("local", schema="CREATE TABLE note (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL)")

    @app.action
    def add(ctx: Context) -> None:
        ctx.execute("INSERT INTO note VALUES ('a', 'all')")

    with (
        app.open(":memory:", user="alice") as replica,
        pytest.warns(DeterminismWarning, match=r"not run in another process.*top of a module"),
    ):
        check_purity(replica, add)


def test_a_program_that_is_run_is_found_by_its_file(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from synchrotron import App, Context\n"
        "from synchrotron.testing import Impure, check_purity\n"
        "schema = 'CREATE TABLE n (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL)'\n"
        "app = App('p', schema=schema)\n"
        "@app.action\n"
        "def add(ctx: Context) -> None:\n"
        "    for name in {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}:\n"
        "        ctx.execute('INSERT INTO n VALUES (?, ?)', (ctx.new_id('n'), name))\n"
        "if __name__ == '__main__':\n"
        "    print('this is no answer')\n"
        "    with app.open(':memory:', user='alice') as replica:\n"
        "        try:\n"
        "            check_purity(replica, add)\n"
        "        except Impure as error:\n"
        "            print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], capture_output=True, text=True, check=False
    )
    assert f"{program}:8, in add" in done.stdout, done.stderr


# ---- other users' views ------------------------------------------------------------------

shared = App(
    "shared",
    schema="""
        CREATE TABLE member (
            id TEXT PRIMARY KEY, project TEXT NOT NULL, user_id TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project) STORED
        );
        CREATE TABLE task (
            id TEXT PRIMARY KEY, project TEXT NOT NULL, hours BIGINT NOT NULL,
            parent TEXT REFERENCES task (id),
            audience_key TEXT GENERATED ALWAYS AS ('project:' || project) STORED
        );
    """,
    audiences="SELECT user_id, audience_key FROM member",
)


@shared.action
def plan(ctx: Context) -> None:
    for id, project, user in (("1", "p", "alice"), ("2", "p", "bob"), ("3", "q", "alice")):
        ctx.execute("INSERT INTO member VALUES (?, ?, ?)", (id, project, user))
    for id, project, hours in (("a", "p", 1), ("b", "q", 5)):
        ctx.execute("INSERT INTO task (id, project, hours) VALUES (?, ?, ?)", (id, project, hours))


@shared.action
def total_into_p(ctx: Context) -> None:
    [row] = ctx.execute("SELECT sum(hours) AS hours FROM task")  # impure
    ctx.execute("UPDATE task SET hours = ? WHERE id = 'a'", (row["hours"],))


@shared.action
def refuse_if_there_is_q(ctx: Context) -> None:
    if not ctx.execute("SELECT 1 AS one FROM task WHERE project = 'q'"):  # impure
        raise LookupError("no q")
    ctx.execute("UPDATE task SET hours = 2 WHERE id = 'a'")


@shared.action
def total_within_p(ctx: Context) -> None:
    [row] = ctx.execute("SELECT sum(hours) AS hours FROM task WHERE project = 'p'")
    ctx.execute("UPDATE task SET hours = ? WHERE id = 'a'", (row["hours"] + 1,))
    ctx.execute("UPDATE task SET hours = 7 WHERE project = 'q'")


@shared.action
def point_at_q(ctx: Context) -> None:
    ctx.execute("UPDATE task SET parent = 'b' WHERE id = 'a'")


@pytest.fixture
def alice() -> Iterator[Replica]:
    with shared.open(":memory:", user="alice", strict=False) as replica:
        replica.run(plan)
        yield replica


def test_hidden_rows_that_decide_shared_ones_are_warned_of(alice: Replica) -> None:
    with pytest.warns(DeterminismWarning, match="those of bob") as caught:
        check_purity(alice, total_into_p)
    [warning] = caught
    assert "task a" in str(warning.message)
    line = total_into_p.function.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}, in total_into_p" in str(warning.message)


def under_views(replica: Replica, action: Any) -> list[str]:
    record = replica._engine.rehearse(action, action.bind((), {}))
    found = run_under_views(shared, action, record, rows_of(replica))
    return [f"{who}: {what}" for who, what, _, _ in found]


def test_an_action_that_raises_on_another_view_alone_is_told(alice: Replica) -> None:
    assert under_views(alice, refuse_if_there_is_q) == ["bob: only one of them changed task a"]


@pytest.mark.parametrize("action", [total_within_p, point_at_q], ids=lambda a: a.name)
def test_what_others_do_not_see_may_differ(alice: Replica, action: Any) -> None:
    assert under_views(alice, action) == []
