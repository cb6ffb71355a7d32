"""What is old is folded into the floor; no row changes, and nobody waits for long."""

import asyncio
import time

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.server.running import SECRET, Running, ask, eventually
from tests.testing.by_hand import APP, NOW_MS, Clock, File, create_project, insert, update
from typer.testing import CliRunner

from synchrotron.cli import main
from synchrotron.errors import InstallationError
from synchrotron.server.asgi import asgi
from synchrotron.server.postgres import PostgresAuthority
from synchrotron.server.retention import prune


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(serve: Serve, clock: Clock) -> Served:
    return serve(described(APP, given=False), clock=clock)


@pytest.fixture
def file(server: Served) -> File:
    """A history of 21 actions, one each second, on one row and on many."""
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.ok(create_project(file, 0, "p1", "alice"))
    file.ok(file.action(1000, insert("hot")))
    file.ok(*(file.action(n * 1000, update("hot", n=n), insert(f"x{n}")) for n in range(2, 21)))
    return file


def counts(server: Served) -> tuple[object, ...]:
    [row] = execute(
        server.database,
        "SELECT (SELECT count(*) FROM synchrotron.actions),"
        " (SELECT count(*) FROM synchrotron.patches), (SELECT n FROM item WHERE id = 'hot')",
    )
    return row


@pytest.mark.spec("F3", "F5")
def test_history_is_pruned_by_count_or_by_age_in_batches(server: Served, file: File) -> None:
    assert counts(server) == (21, 41, 20)
    database = server.authority._database
    assert server.bridge.run(prune(database, keep=15, batch_max=2)) == 6
    assert counts(server) == (15, 30, 20)
    assert server.bridge.run(prune(database, older_than_ms=NOW_MS + 18_000)) == 12
    assert counts(server) == (3, 6, 20)
    assert server.bridge.run(prune(database, keep=3, older_than_ms=0)) == 0
    file.ok(file.action(30_000, update("hot", n=30)))
    assert counts(server) == (4, 7, 30)
    again = File(server, "alice", "b")  # type: ignore[arg-type]
    assert type(again.send()).__name__ == "Rebase"
    again.start_from_snapshot()
    assert again.pull().events == []


@pytest.mark.spec("F3")
def test_a_server_prunes_by_itself(server: Served, file: File, clock: Clock) -> None:
    clock.now_ms = NOW_MS + 20_000

    async def for_a_while() -> None:
        task = asyncio.create_task(server.authority.keep_pruned(age_ms_max=10_000, every_s=0.01))
        while (await asyncio.to_thread(counts, server))[0] != 11:
            await asyncio.sleep(0.01)
        task.cancel()

    server.bridge.run(asyncio.wait_for(for_a_while(), 30))


@pytest.mark.spec("F3", "F5")
@pytest.mark.parametrize("days", [1.0, None])
def test_a_server_over_http_prunes_what_is_older_than_its_retention(
    server: Served, file: File, clock: Clock, days: float | None
) -> None:
    clock.now_ms = time.time_ns() // 1_000_000
    file.ok(file.action(clock.now_ms - NOW_MS, insert("fresh")))
    before = execute(server.database, "SELECT * FROM item ORDER BY id")
    with Running(asgi(server.database, jwt_secret=SECRET, retention_days=days)) as serving:
        if days is not None:
            eventually(lambda: counts(server)[0] == 1)
        assert ask(f"{serving.url}/health")[0] == 200
    assert counts(server)[0] == (22 if days is None else 1)
    assert execute(server.database, "SELECT * FROM item ORDER BY id") == before


@pytest.mark.spec("F3")
def test_pruning_goes_on_after_the_database_was_away(
    server: Served, file: File, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What stops one attempt does not stop the next."""
    execute(server.database, "ALTER FUNCTION synchrotron.prune RENAME TO away")
    clock.now_ms = NOW_MS + 20_000

    async def for_a_while() -> None:
        task = asyncio.create_task(server.authority.keep_pruned(age_ms_max=10_000, every_s=0.01))
        while "history cannot be pruned now" not in caplog.text:
            await asyncio.sleep(0.01)
        execute(server.database, "ALTER FUNCTION synchrotron.away RENAME TO prune")
        while (await asyncio.to_thread(counts, server))[0] != 11:
            await asyncio.sleep(0.01)
        task.cancel()

    server.bridge.run(asyncio.wait_for(for_a_while(), 30))


def test_the_command_prunes_and_says_how_much(server: Served, file: File) -> None:
    ran = CliRunner().invoke(main, ["prune", "--database", server.database, "--keep", "20"])
    assert (ran.exit_code, ran.output) == (
        0,
        "1 actions were folded into the floor; no row changed\n",
    )
    ran = CliRunner().invoke(main, ["prune", "--database", server.database])
    assert (ran.exit_code, "--keep" in ran.output) == (1, True)


@pytest.mark.spec("H8")
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("GRANT DELETE ON item TO PUBLIC", "may write item"),
        ("DROP SCHEMA synchrotron CASCADE", "install"),
    ],
)
def test_a_server_does_not_start_where_more_is_allowed_than_must_be_or_nothing_is_installed(
    server: Served, statement: str, reason: str
) -> None:
    execute(server.database, "CREATE TABLE altered ()")  # so that no other test gets this one
    execute(server.database, statement)

    async def start() -> None:
        async with PostgresAuthority(server.database):
            pass

    with pytest.raises(InstallationError, match=reason):
        server.bridge.run(start())
