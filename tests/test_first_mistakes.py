"""What a newcomer does wrong, and what is said then: each message leads to the remedy.

A line of the table is a mistake, whose error it is, and the words by which one finds out. The
mistakes themselves are below it, a function each.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.postgres.cluster import drop_database, new_database
from tests.server.running import running, token

from synchrotron import App, Context, errors
from synchrotron.client.token import Token
from synchrotron.errors import DeterminismWarning
from synchrotron.server.install import install
from synchrotron.server.postgres import PostgresAuthority
from synchrotron.testing import MemoryServer

AUDIENCE = "audience_key TEXT GENERATED ALWAYS AS ('all') STORED"
SCHEMA = f"CREATE TABLE todo (id TEXT PRIMARY KEY, text TEXT NOT NULL, {AUDIENCE})"
EVERYONE = {"alice": {"all"}, "bob": {"all"}}
DAY_MS = 24 * 3600 * 1000

app = App("todo", schema=SCHEMA)


@app.action(audience="all")
def add(ctx: Context, *, id: str, text: str) -> None:
    ctx.execute("INSERT INTO todo (id, text) VALUES (?, ?)", (id, text))


# ---- the table ---------------------------------------------------------------------------


def mistakes() -> list[object]:
    return [
        pytest.param(mistake, kind, words, id=mistake.__name__)
        for mistake, kind, *words in (
            (
                the_wall_clock_in_an_action,
                errors.ImpureAction,
                "action 'stamp'", "reads this machine's clock (time.time) at", "use ctx.now",
            ),
            (
                chance_in_an_action,
                errors.ImpureAction,
                "uuid.uuid4", "use ctx.new_id(table)",
            ),
            (
                writing_outside_an_action,
                errors.WriteOutsideAction,
                "INSERT on todo outside an action", "@app.action", "replica.run(…)",
            ),
            (
                running_a_function_that_is_no_action,
                errors.UnknownAction,
                "tidy is not an action", "decorate it with @app.action",
            ),
            (
                a_token_that_another_secret_signed,
                errors.Unauthorized,
                "signature is wrong", "another secret or key", "open the replica with a new token",
            ),
            (
                a_token_that_is_none,
                errors.Unauthorized,
                "no signed JWT", "open the replica with a new token",
            ),
            (
                a_token_that_is_empty,
                errors.UsageError,
                "who is using the server?", "token=…",
            ),
            (
                a_token_function_that_gives_none,
                errors.Unauthorized,
                "the function that gives the token gave none", "sign in again",
            ),
            (
                a_server_that_is_not_installed,
                errors.InstallationError,
                "synchrotron install module:app --database URL",
            ),
            (
                a_table_without_audience,
                errors.SchemaError,
                "table todo", "it has no audience_key", "who may see a row",
                "write audience_key TEXT GENERATED ALWAYS AS",
            ),
            (
                the_same_id_twice_here,
                errors.ConstraintError,
                "todo.id", "this key is taken", "Leave id out", "ctx.new_id",
            ),
            (
                the_same_id_on_two_replicas,
                Rejected,
                "todo.id", "this key is taken", "Leave id out", "ctx.new_id",
            ),
            (
                a_schema_that_postgresql_refuses,
                errors.InstallationError,
                "GLOB", "Nothing was changed", "in place of glob, LIKE",
            ),
            (
                a_second_library_on_the_same_file,
                sqlite3.OperationalError,
                "this_table_is_synced_by_synchrotron", "change_it_only_in_actions_with_replica_run",
            ),
            (
                a_changed_action_without_a_new_version,
                DeterminismWarning,
                "action 'add' (version 1) was changed after it ran", "version=2",
                "leave the old one beside it",
            ),
            (
                a_clock_a_day_ahead,
                Logged,
                "this machine's clock is 24 h ahead of the server's", "set it (NTP)",
            ),
            (
                a_clock_a_day_behind,
                Logged,
                "this machine's clock is 24 h behind the server's", "set it (NTP)",
            ),
        )
    ]  # fmt: skip


class Rejected(Exception):
    """Told as the outcome of an action."""


class Logged(Exception):
    """Told in the log `synchrotron`."""


# ---- the mistakes ------------------------------------------------------------------------


def the_wall_clock_in_an_action(_: Path) -> object:
    app = App("todo", schema=SCHEMA)

    @app.action
    def stamp(ctx: Context) -> None:
        ctx.execute("INSERT INTO todo (text) VALUES (?)", (f"at {time.time()}",))

    with app.open(":memory:", user="alice", strict=True) as replica:
        return replica.run(stamp)


def chance_in_an_action(_: Path) -> object:
    app = App("todo", schema=SCHEMA)

    @app.action
    def draw(ctx: Context) -> None:
        ctx.execute("INSERT INTO todo (id, text) VALUES (?, '')", (str(uuid.uuid4()),))

    with app.open(":memory:", user="alice", strict=True) as replica:
        return replica.run(draw)


def writing_outside_an_action(_: Path) -> object:
    with app.open(":memory:", user="alice") as replica:
        return replica.query("INSERT INTO todo (id, text) VALUES ('1', 'Buy milk')")


def running_a_function_that_is_no_action(_: Path) -> object:
    def tidy(ctx: Context) -> None:
        ctx.execute("DELETE FROM todo")

    with app.open(":memory:", user="alice") as replica:
        return replica.run(tidy)  # type: ignore[arg-type]


def a_token_that_another_secret_signed(_: Path) -> object:
    return sync_with(token("alice", secret="a secret that the server does not have"))


def a_token_that_is_none(_: Path) -> object:
    return sync_with("alice")


def a_token_that_is_empty(_: Path) -> object:
    return sync_with("")


def a_token_function_that_gives_none(_: Path) -> object:
    return sync_with(lambda: "")


def sync_with(given: Token) -> object:
    with (
        running(MemoryServer(app)) as server,
        app.open(":memory:", server=server.url, token=given) as replica,
    ):
        with pytest.raises(errors.Unauthorized) as told:
            replica.sync()
        assert replica.state == f"blocked: {told.value}"
        raise told.value


def a_server_that_is_not_installed(_: Path) -> object:
    database = new_database()

    async def serve() -> None:
        async with PostgresAuthority(database):
            pass

    try:
        return asyncio.run(serve())
    finally:
        drop_database(database)


def a_table_without_audience(_: Path) -> object:
    return App("todo", schema="CREATE TABLE todo (id TEXT PRIMARY KEY, text TEXT NOT NULL)")


def the_same_id_twice_here(_: Path) -> object:
    with app.open(":memory:", user="alice") as replica:
        replica.run(add, id="1", text="Buy milk")
        return replica.run(add, id="1", text="Bake bread")


def the_same_id_on_two_replicas(_: Path) -> NoReturn:
    server = MemoryServer(app, EVERYONE)
    with (
        app.open(":memory:", transport=server.connect("alice")) as alice,
        app.open(":memory:", transport=server.connect("bob")) as bob,
    ):
        runs = [alice.run(add, id="1", text="Buy milk"), bob.run(add, id="1", text="Bake bread")]
        alice.sync(), bob.sync(), alice.sync()
        [told] = [run.outcome for run in runs if run.outcome.state == "rejected"]
        raise Rejected(told.detail)


def a_schema_that_postgresql_refuses(_: Path) -> object:
    database = new_database()
    text = "text TEXT NOT NULL CHECK (text GLOB 'B*')"
    globbing = App("todo", schema=f"CREATE TABLE todo (id TEXT PRIMARY KEY, {text}, {AUDIENCE})")
    try:
        return install(globbing, database)
    finally:
        drop_database(database)


def a_second_library_on_the_same_file(folder: Path) -> object:
    app.open(folder / "alice.db", user="alice").close()
    connection = sqlite3.connect(folder / "alice.db")
    try:
        return connection.execute("INSERT INTO todo (id, text) VALUES ('1', 'Buy milk')")
    finally:
        connection.close()


def a_changed_action_without_a_new_version(folder: Path) -> NoReturn:
    with app.open(folder / "alice.db", user="alice", strict=True) as replica:
        replica.run(add, id="1", text="Buy milk")
    changed = App("todo", schema=SCHEMA)

    @changed.action(name="add", audience="all")
    def _(ctx: Context, *, id: str, text: str) -> None:
        ctx.execute("INSERT INTO todo (id, text) VALUES (?, upper(?))", (id, text))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        changed.open(folder / "alice.db", user="alice", strict=True).close()
    [warning] = told
    assert issubclass(warning.category, DeterminismWarning)
    raise DeterminismWarning(str(warning.message))


def a_clock_a_day_ahead(_: Path) -> object:
    return sync_at(+DAY_MS)


def a_clock_a_day_behind(_: Path) -> object:
    return sync_at(-DAY_MS)


def sync_at(skew_ms: int) -> object:
    now_ms = 1_800_000_000_000
    server = MemoryServer(app, EVERYONE, clock=lambda: now_ms)
    with app.open(
        ":memory:", transport=server.connect("alice"), clock=lambda: now_ms + skew_ms
    ) as replica:
        run = replica.run(add, id="1", text="Buy milk")
        replica.sync()
        assert run.outcome.state == "accepted"  # nothing is lost by it
        return None


# ---- what is said ------------------------------------------------------------------------


@pytest.mark.parametrize(("mistake", "kind", "words"), mistakes())
def test_a_mistake_is_answered_with_its_remedy(
    mistake: Callable[[Path], object],
    kind: type[BaseException],
    words: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if kind is Logged:
        mistake(tmp_path)
        said = caplog.text
    else:
        with pytest.raises(kind) as told:
            mistake(tmp_path)
        assert type(told.value) is kind
        said = str(told.value)
    for word in words:
        assert word in said
    assert "Traceback" not in said
