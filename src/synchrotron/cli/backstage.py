"""The demo on PostgreSQL: the server and each replica in a process of its own.

The server's process runs `serve`: it prints its address, and its clock stands at the end of
the story, where the replicas' clocks stand when they sync.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from synchrotron.cli import market
from synchrotron.cli.actor import LAST_MINUTE, Clock, RemoteActor
from synchrotron.cli.embedded import embedded_postgres
from synchrotron.cli.stage import Stage
from synchrotron.cli.story import OWNERS
from synchrotron.errors import InstallationError
from synchrotron.server.asgi import Server
from synchrotron.server.authority import Authority
from synchrotron.server.install import install
from synchrotron.server.postgres import PostgresAuthority
from synchrotron.server.serving import Serving
from synchrotron.server.settings import read_settings
from synchrotron.server.tokens import sign
from synchrotron.testing.oracle import Tables

TOKEN_S = 3600


@contextmanager
def open_real_stage(folder: Path, cluster: str | None) -> Iterator[Stage]:
    """Start a database, the server and the replicas; all of it is gone at the end.

    In a given `cluster`, by the URL of a superuser, a database is made and dropped again.
    Raises `UsageError` or `ServerError`.
    """
    with ExitStack() as opened:
        where = "an embedded PostgreSQL" if cluster is None else "the given PostgreSQL"
        url = cluster or opened.enter_context(embedded_postgres(folder / "postgres"))
        database = opened.enter_context(database_of_its_own(url))
        install(market.app, database)
        secret = secrets.token_hex(32)
        server = opened.enter_context(server_process(database, secret))
        actors = {
            name: opened.enter_context(
                RemoteActor(folder / f"{name}.db", server, sign(secret, user, time.time(), TOKEN_S))
            )
            for name, user in OWNERS.items()
        }
        yield Stage(
            f"The server is an HTTP server on {where}. It and the replicas each run in a process "
            "of their own.",
            actors,
            lambda: tables_of(database),
            # Nothing is pruned here, and all is sent: any replica knows the whole history.
            next(iter(actors.values())).records,
        )


@contextmanager
def database_of_its_own(cluster: str) -> Iterator[str]:
    name = f"synchrotron_demo_{secrets.token_hex(4)}"
    try:
        connected = psycopg.connect(cluster, autocommit=True)
    except psycopg.OperationalError as error:
        raise InstallationError(f"the database cannot be reached: {error}") from error
    with connected as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(cluster, dbname=name)
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))


def tables_of(database: str) -> Tables:
    """What PostgreSQL's own tables hold."""
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return {
            name: connection.execute(
                sql.SQL("SELECT {} FROM public.{} ORDER BY {}").format(
                    sql.SQL(", ").join(sql.Identifier(c.name) for c in table.all_columns),
                    sql.Identifier(name),
                    sql.SQL(", ").join(
                        sql.SQL('{} COLLATE "C"').format(sql.Identifier(key)) for key in table.key
                    ),
                )
            ).fetchall()
            for name, table in market.app.schema.tables.items()
        }


@contextmanager
def server_process(database: str, secret: str) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    program = "import sys; from synchrotron.cli.backstage import serve; serve(sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, database],
        env={**os.environ, "SYNCHROTRON_JWT_SECRET": secret},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the server's process ended with {process.wait()}")
        yield address
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# ---- the server's process ----------------------------------------------------------------


def serve(database: str) -> None:
    """Serve until a signal comes."""
    asyncio.run(_serve(database))


async def _serve(database: str) -> None:
    clock = Clock()
    clock.set(LAST_MINUTE)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Authority]:
        async with PostgresAuthority(database, clock=clock) as history:
            yield history

    server = Server(read_settings(os.environ), connect)
    await server.open()
    serving = Serving(server, "127.0.0.1", 0)

    async def tell_address() -> None:
        while not serving.started:
            await asyncio.sleep(0.01)
        print(f"http://127.0.0.1:{serving.port}", flush=True)

    telling = asyncio.create_task(tell_address())
    await serving.serve()
    await telling
