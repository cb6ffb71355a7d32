"""`synchrotron install`: an application's tables, roles and policies into a database."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time

from rich.console import Console

from synchrotron.application import App
from synchrotron.errors import SynchrotronError, UsageError


def load_app(reference: str) -> App:
    """The application that `module:name` names. Raises `UsageError`."""
    module, _, name = reference.partition(":")
    if not module or not name.isidentifier():
        raise UsageError(f"{reference}: write module:name, such as todo:app")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{reference}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, App):
        raise UsageError(f"{reference} is a {type(found).__name__}, not a synchrotron.App")
    return found


def install_app(console: Console, reference: str, database: str, *, adopt: bool = False) -> int:
    """Install, and tell what was done; the exit code."""
    try:
        from synchrotron.server.install import install
    except ImportError as error:
        console.print(f"[red]{error}[/red]: pip install 'pysynchrotron\\[server]'")
        return 1
    try:
        app = load_app(reference)
        done = install(app, database, adopt=adopt)
    except SynchrotronError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1
    console.print(f"{app.name}: {len(done.tables)} tables ({', '.join(done.tables)})")
    if done.migrations:
        console.print(f"{done.migrations} migrations were run")
    for table, count in done.adopted.rows.items():
        console.print(f"{table} was adopted, with {count} rows")
    if memberless := done.adopted.memberless:
        console.print(
            f"{len(memberless)} audiences have rows and no member, so that nobody sees them: "
            f"{', '.join(memberless[:10])}{', …' if len(memberless) > 10 else ''}",
            markup=False,
        )
    console.print("The server may log in as any role after GRANT synchrotron_server TO it.")
    return 0


def prune_history(console: Console, database: str, keep: int | None, days: float | None) -> int:
    """Prune, and tell how much; the exit code."""
    from synchrotron.server.postgres import PostgresAuthority

    if keep is None and days is None:
        console.print("[red]nothing says what is old[/red]: give --keep, --days or both")
        return 1

    async def prune() -> int:
        older_than_ms = None if days is None else int((time.time() - days * 86400) * 1000)
        async with PostgresAuthority(database, connections_max=1) as authority:
            return await authority.prune(keep=keep, older_than_ms=older_than_ms)

    try:
        pruned = asyncio.run(prune())
    except SynchrotronError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1
    console.print(f"{pruned} actions were folded into the floor; no row changed")
    return 0
