"""The command line's commands. Each says in a sentence what it does and how it ends."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import apsw
import typer
from rich.console import Console

from synchrotron.cli.demo import demo as play_demo
from synchrotron.cli.install import install_app

main = typer.Typer(
    name="synchrotron",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Offline-first sync: replicas that record actions and replay them in one global order.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    if wanted:
        python = ".".join(map(str, sys.version_info[:3]))
        sqlite = apsw.sqlite_lib_version()
        typer.echo(f"synchrotron {own_version()}, SQLite {sqlite}, Python {python}")
        raise typer.Exit


def own_version() -> str:
    try:
        return version("pysynchrotron")
    except PackageNotFoundError:
        return "(run from its source)"


@main.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            is_eager=True,
            help="Print the versions of synchrotron, SQLite and Python.",
        ),
    ] = False,
) -> None:
    pass


@main.command()
def demo() -> None:
    """Three replicas of two users edit offline, conflict, sync, and agree.

    Needs nothing: the server is in memory, the replicas are temporary files.
    Ends with 0 if all hold the same rows, otherwise with 1 and what differs.
    """
    raise typer.Exit(play_demo(Console(highlight=False)))


@main.command()
def install(
    app: Annotated[str, typer.Argument(help="The application, as module:name.")],
    database: Annotated[
        str,
        typer.Option(
            envvar="SYNCHROTRON_DATABASE_URL",
            help="The URL of a superuser, or of the database's owner with CREATEROLE.",
        ),
    ],
) -> None:
    """Put an application's tables, roles and policies into a PostgreSQL database.

    Repeatable: what is there already stays. Ends with 0, or with 1 and what is in the way;
    nothing was changed then.
    """
    raise typer.Exit(install_app(Console(highlight=False), app, database))
