"""The command line's commands. Each says in a sentence what it does and how it ends."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import apsw
import typer
from rich.console import Console

from synchrotron.cli.demo import demo as play_demo
from synchrotron.cli.simulate import simulate_many, simulate_one
from synchrotron.testing.simulation.many import Recipe

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
def simulate(
    app: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:APP]", help="Your application, such as todo:app."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many histories.")] = 100,
    first: Annotated[int, typer.Option(help="The seed of the first one.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Only this one.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Only these steps of --seed, such as 3,17; or none.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="How many there are at first.")] = 3,
    steps: Annotated[int, typer.Option(min=0, help="How long a history is.")] = 96,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per core if unset.")
    ] = None,
    tell: Annotated[bool, typer.Option("--tell", help="Tell --seed step by step.")] = False,
) -> None:
    """Random histories of an application's own actions, and of trouble.

    Each action needs a sample (`@NAME.sample`). Without an application, the one is taken by which
    Synchrotron tries itself. Ends with 0 if every history holds every rule; otherwise
    with 1, the shortest story of what went wrong, and the command that repeats it.
    """
    console = Console(highlight=False)
    recipe = Recipe(app, replicas, steps)
    if seed is None:
        if only is not None or tell:
            raise typer.BadParameter("--only and --tell want a --seed")
        raise typer.Exit(simulate_many(console, recipe, range(first, first + seeds), jobs))
    raise typer.Exit(simulate_one(console, recipe, seed, numbers(only), tell=tell))


def numbers(text: str | None) -> list[int] | None:
    """`3,17` as numbers; `none` for no number."""
    if text is None or text == "none":
        return None if text is None else []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of steps, such as 3,17") from None
