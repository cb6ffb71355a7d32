"""`synchrotron serve`, `token` and `dev`: a server, and what it takes to try it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console

from synchrotron.cli.embedded import embedded_postgres
from synchrotron.cli.install import load_app
from synchrotron.errors import SynchrotronError, UsageError
from synchrotron.server.asgi import Server, asgi
from synchrotron.server.install import install
from synchrotron.server.serving import Serving, log_to_stderr
from synchrotron.server.settings import SECRET_BYTES_MIN, Options
from synchrotron.server.tokens import sign

DEV_USERS = ("alice", "bob")
DEV_TOKEN_DAYS = 365
DAY_S = 24 * 3600
SECRET_FILE = "jwt-secret"


def serve(
    console: Console,
    *,
    host: str,
    port: int,
    log_json: bool,
    database: str | None = None,
    **options: Unpack[Options],
) -> int:
    """Serve until a signal comes; the exit code."""
    log_to_stderr(json=log_json)
    try:
        return _run(asgi(database, **options), host, port)
    except SynchrotronError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1


def _run(server: Server, host: str, port: int) -> int:
    """Serve until a signal comes, which is no failure."""
    # Uvicorn stops by a signal, and then raises it again for whoever was there before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return asyncio.run(_serve(server, host, port))


async def _serve(server: Server, host: str, port: int) -> int:
    await server.open()  # what is wrong with the database is told before anyone asks
    serving = Serving(server, host, port)
    try:
        await serving.serve()
    finally:
        await server.close()
    return 0 if serving.started else 1


def make_token(
    console: Console, user: str, secret: str | None, days: float, app: str | None
) -> int:
    """Print a token, and nothing else, so that a shell can take it; the exit code.

    `app` is one that `dev` serves from this folder: then the secret is that of `dev`.
    """
    try:
        if app is not None:
            secret = secret_of_dev(load_app(app).name)
        if not secret or len(secret.encode()) < SECRET_BYTES_MIN:
            raise UsageError(
                f"a secret of {SECRET_BYTES_MIN} bytes or more is needed: --jwt-secret, or "
                "SYNCHROTRON_JWT_SECRET, as the server has it; for a server that "
                "`synchrotron dev` started, --dev MODULE:APP"
            )
    except SynchrotronError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 1
    console.print(sign(secret, user, time.time(), days * DAY_S), soft_wrap=True, markup=False)
    return 0


# ---- dev ---------------------------------------------------------------------------------


def dev(console: Console, reference: str, database: str | None, port: int) -> int:
    """An embedded PostgreSQL, the installation, the server, and tokens; the exit code."""
    log_to_stderr(json=False)
    try:
        app = load_app(reference)
        folder = dev_folder(app.name)
        with _database(database, folder, app.name) as url:
            done = install(app, url)
            secret = kept_secret(folder)
            console.print(f"{app.name}: {len(done.tables)} tables ({', '.join(done.tables)})")
            server = asgi(url, jwt_secret=secret)
            _tell_how(console, reference, f"http://127.0.0.1:{port}", url, secret)
            return _run(server, "127.0.0.1", port)
    except SynchrotronError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1


def dev_folder(app: str) -> Path:
    """Where `dev` keeps data and secret: one folder for each project and user."""
    here = hashlib.sha256(f"{os.getcwd()}\n{app}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"synchrotron-dev-{_user_number()}-{here}"


def _user_number() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@contextmanager
def _database(given: str | None, folder: Path, name: str) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with embedded_postgres(folder) as cluster:
        yield database_in(cluster, name)


def database_in(cluster: str, name: str) -> str:
    """The URL of a database of that name, which is made if it is not there."""
    with psycopg.connect(cluster, autocommit=True) as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
        if there.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(cluster, dbname=name)


def kept_secret(folder: Path) -> str:
    """The secret of this folder, so that tokens outlive a restart; nobody else may read it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SECRET_FILE
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = file.read_text(encoding="ascii")
        if len(secret) < SECRET_BYTES_MIN:
            raise UsageError(f"{file} holds no secret: remove it") from None
        return secret
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        secret = secrets.token_hex(SECRET_BYTES_MIN)
        opened.write(secret)
    return secret


def secret_of_dev(app: str) -> str:
    """The secret of the server that `dev` started in this folder. Raises `UsageError`."""
    folder = dev_folder(app)
    if not (folder / SECRET_FILE).exists():
        raise UsageError(
            f"`synchrotron dev` has not served {app!r} from {os.getcwd()} yet: start it first, in "
            "a terminal of its own"
        )
    return kept_secret(folder)


def _tell_how(console: Console, reference: str, url: str, database: str, secret: str) -> None:
    module, _, name = reference.partition(":")
    tokens = {user: sign(secret, user, time.time(), DEV_TOKEN_DAYS * DAY_S) for user in DEV_USERS}
    lines = [
        f"server     {url}",
        f"database   {database}",
        *(f"token      of {user}: {token}" for user, token in tokens.items()),
        f"more       synchrotron token --dev {reference} --user carol",
        "",
        f"from {module} import {name}",
        f'replica = {name}.open("alice.db", server="{url}", token="…", strict=True)',
        "# strict: an action that reaches for the clock, chance or the network is refused, by line",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
