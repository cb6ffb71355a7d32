"""The plugin, as the tests of an application use it: each in a pytest of its own."""

from __future__ import annotations

import pytest

from synchrotron.testing.pytest_plugin import clock_of_a_test

TODO = """
import time
from synchrotron import App, Context

def make():
    app = App("todo", schema='''
        CREATE TABLE todo (
            id TEXT PRIMARY KEY, text TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('user:alice') STORED
        )''')

    @app.action
    def create(ctx: Context, *, text: str) -> None:
        ctx.execute("INSERT INTO todo (text) VALUES (?)", (text,))

    @app.action
    def stamp(ctx: Context) -> None:
        ctx.execute("INSERT INTO todo (text) VALUES (?)", (str(time.time()),))

    return app, create, stamp

app, create, stamp = make()
"""
INI = "[pytest]\npythonpath = .\nfilterwarnings = error\nsynchrotron_app = tasks:app\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("SYNCHROTRON_STRICT", raising=False)
    pytester.makepyfile(tasks=TODO)
    pytester.makeini(INI)
    return pytester


def run(project: pytest.Pytester, tests: str, **outcomes: int) -> pytest.RunResult:
    project.makepyfile(test_todo=tests)
    # Without what costs seconds: rewriting asserts in the package, and hypothesis.
    result = project.runpytest_inprocess("--assert=plain", "-p", "no:hypothesispytest")
    result.assert_outcomes(**outcomes)
    return result


def test_the_fixtures_serve_the_application_of_the_ini_option(project: pytest.Pytester) -> None:
    run(
        project,
        """
        import pytest
        from tasks import app, create
        from synchrotron import Replica
        from synchrotron.errors import Closed
        from synchrotron.testing import MemoryServer

        kept = []

        def test_a_todo_reaches_the_server_and_others(
            replica: Replica, memory_server: MemoryServer, open_replica
        ):
            kept.append(replica)
            replica.run(create, text="Buy milk")
            assert memory_server.rows("todo") == []
            replica.sync()
            assert [row["text"] for row in memory_server.rows("todo")] == ["Buy milk"]
            other = open_replica("alice")
            other.sync()
            assert other.query("SELECT * FROM todo") == replica.query("SELECT * FROM todo")

        def test_each_test_has_its_own(replica, memory_server):
            replica.sync()
            assert replica.query("SELECT * FROM todo") == []
            with pytest.raises(Closed):
                kept[0].query("SELECT 1")

        def test_files_and_options_work(open_replica, tmp_path):
            bob = open_replica("bob", tmp_path / "bob.db")
            assert bob.run(create, text="a").id

        """,
        passed=3,
    )


def test_strict_mode_is_on(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        from tasks import app, stamp

        def test_in_the_fixture(replica):
            replica.run(stamp)

        def test_in_a_replica_of_ones_own():
            with app.open(":memory:", user="alice") as replica:
                replica.run(stamp)
        """,
        failed=2,
    )
    result.stdout.fnmatch_lines(["*ImpureAction: *reads this machine's clock*tasks.py:17*ctx.now"])


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_strict_mode_can_be_left_off(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "ini":
        project.makeini(f"{INI}synchrotron_strict = false\n")
    else:
        monkeypatch.setenv("SYNCHROTRON_STRICT", "0")
    tests = "from tasks import stamp\ndef test(replica):\n    replica.run(stamp)\n"
    run(project, tests, passed=1)


def test_the_application_can_come_from_a_fixture(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\npythonpath = .\n")
    project.makeconftest(
        """
        import pytest, tasks

        @pytest.fixture
        def made():
            return tasks.make()

        @pytest.fixture
        def synchrotron_app(made):
            return made[0]

        @pytest.fixture
        def synchrotron_user():
            return "carol"
        """
    )
    run(
        project,
        """
        def test(replica, made):
            replica.run(made[1], text="a")
            assert replica.log()[0].user == "carol"
        """,
        passed=1,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "*which application? Write synchrotron_app = *"),
        (
            "taskss:app",
            "*synchrotron_app = 'taskss:app' cannot be found: No module named 'taskss'*",
        ),
        ("tasks:ap", "*synchrotron_app = 'tasks:ap' cannot be found: *"),
        ("tasks:create", "*synchrotron_app = 'tasks:create' is of type Action, and no App*"),
    ],
)
def test_an_application_that_is_not_there_is_told_with_the_remedy(
    project: pytest.Pytester, name: str, message: str
) -> None:
    project.makeini(f"[pytest]\npythonpath = .\nsynchrotron_app = {name}\n")
    result = run(project, "def test(replica): ...", errors=1)
    result.stdout.fnmatch_lines([message])


def test_what_a_test_runs_later_is_later() -> None:
    clock = clock_of_a_test()
    times = [clock() for _ in range(1_000)]
    assert times == sorted(set(times))


def test_the_replicas_of_a_test_share_a_clock(project: pytest.Pytester) -> None:
    run(
        project,
        """
        def test(replica, open_replica):
            assert replica._engine._clock is open_replica("bob")._engine._clock
        """,
        passed=1,
    )
