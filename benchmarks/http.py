"""Over HTTP, end to end: the server in a process of its own, tokens, JSON, zstd and all.

The same work is done in process, over HTTP with the history in memory, and over HTTP with
the history in PostgreSQL, in turns: so the price of the wire and that of the database show.
`python -m benchmarks.http serve [DATABASE]` is the server's process. SYNCHROTRON_TEST_DATABASE
names a cluster by a superuser's URL; unset, one is started.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo, create_todos
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.cli.backstage import database_of_its_own
from synchrotron.cli.embedded import embedded_postgres
from synchrotron.server.asgi import asgi
from synchrotron.server.install import install
from synchrotron.server.serving import Serving
from synchrotron.server.settings import Options
from synchrotron.server.tokens import sign
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_authority import MemoryAuthority

SECRET = "a secret for benchmarks, of 32 bytes or more"
USERS = ("ann", "bob", "cid")
NOOPS = 200
UPLOAD = 1_000
DOWNLOAD = 5_000
SNAPSHOT = 100_000
TURNS = 5
LATENCIES = 50

_ids = map(str, itertools.count())


def serve(database: str | None = None) -> None:
    """Serve a history in memory or in a database; the address is the first line."""
    options: Options = {"jwt_secret": SECRET, "requests_per_minute": 10**9}
    if database is None:
        authority = MemoryAuthority(MemoryServer(app))
        serving = Serving(asgi(authority=authority, **options), "127.0.0.1", 0)
    else:
        serving = Serving(asgi(database, **options), "127.0.0.1", 0)

    def tell_address() -> None:
        while not serving.started:
            time.sleep(0.01)
        print(f"http://127.0.0.1:{serving.port}", flush=True)

    threading.Thread(target=tell_address, daemon=True).start()
    serving.run()


class World:
    """Replicas of one server, which is reached in process or over HTTP."""

    def __init__(self, folder: Path, open_for: Callable[[Path, str], Replica]) -> None:
        self._folder = folder
        self._open = open_for
        self._opened: list[Replica] = []

    def replica(self, user: str) -> Replica:
        """A new replica, in step."""
        replica = self._open(self._folder / f"{next(_ids)}.db", user)
        self._opened.append(replica)
        replica.sync()
        return replica

    def close(self) -> None:
        for replica in self._opened:
            replica.close()


@contextmanager
def worlds() -> Iterator[dict[str, World]]:
    """One in process, two over HTTP, each with a project of three members."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        database = opened.enter_context(database_in_a_cluster(folder))
        server = MemoryServer(app)
        made = {
            "in process": World(
                folder, lambda path, user: app.open(path, transport=server.connect(user))
            ),
            "http, memory": over_http(folder, opened.enter_context(server_process())),
            "http, postgres": over_http(folder, opened.enter_context(server_process(database))),
        }
        for world in made.values():
            opened.callback(world.close)
            first = world.replica("ann")
            first.run(create_project, id="p1", members=list(USERS))
            first.sync()
        yield made


def over_http(folder: Path, url: str) -> World:
    tokens = {user: sign(SECRET, user, time.time(), 3600) for user in USERS}
    return World(folder, lambda path, user: app.open(path, server=url, token=tokens[user]))


@contextmanager
def server_process(*database: str) -> Iterator[str]:
    with server_process_of(*database) as (url, _):
        yield url


@contextmanager
def server_process_of(*database: str) -> Iterator[tuple[str, int]]:
    """The address of a server process, and its process id."""
    command = [sys.executable, "-m", "benchmarks.http", "serve", *database]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def database_in_a_cluster(folder: Path) -> Iterator[str]:
    """An installed database, with everything as durable as PostgreSQL makes it by itself."""
    with ExitStack() as opened:
        cluster = os.environ.get("SYNCHROTRON_TEST_DATABASE")
        cluster = cluster or opened.enter_context(embedded_postgres(folder / "postgres"))
        database = opened.enter_context(database_of_its_own(cluster))
        install(app, database)
        yield database


def create(replica: Replica, count: int) -> None:
    for _ in range(count):
        replica.run(create_todo, id=next(_ids), project_id="p1")


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def noop_us(both: dict[str, World]) -> dict[str, float]:
    replicas = {name: world.replica("ann") for name, world in both.items()}
    return in_turns(NOOPS, **{name: replica.sync for name, replica in replicas.items()})


def upload_per_s(world: World, writer: Replica) -> float:
    create(writer, UPLOAD)
    return UPLOAD / seconds(writer.sync)


def download_per_s(world: World) -> tuple[float, float]:
    """Actions taken in per second, and the longest that a run had to wait meanwhile, in ms."""
    reader, writer = world.replica("bob"), world.replica("ann")
    create(writer, DOWNLOAD)
    writer.sync()
    waits_s: list[float] = []
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.05):
            waits_s.append(seconds(lambda: create(reader, 1)))

    rate = DOWNLOAD / seconds(reader.sync)
    create(writer, DOWNLOAD)
    writer.sync()
    thread = threading.Thread(target=write)
    thread.start()
    reader.sync()
    done.set()
    thread.join()
    return rate, max(waits_s) * 1000


def latency_ms(world: World) -> float:
    """From a run on one replica until another one has it, both syncing."""
    writer, reader = world.replica("ann"), world.replica("bob")
    came = threading.Event()
    reader.on("tables", lambda _: came.set())
    times_ms = []
    with writer.syncing(), reader.syncing():
        create(writer, 1)
        came.wait(10)
        for _ in range(LATENCIES):
            time.sleep(0.05)
            came.clear()
            create(writer, 1)
            times_ms.append(seconds(lambda: came.wait(10)) * 1000)
    return median(times_ms)


def snapshot_s(world: World) -> float:
    """How long a new replica takes to have all rows."""
    writer = world.replica("cid")
    [row] = writer.query("SELECT count(*) AS n FROM todo")
    for _ in range((SNAPSHOT - row["n"]) // 1000):
        writer.run(create_todos, count=1000, project_id="p1")
        writer.sync()
    return seconds(lambda: world.replica("bob"))


def main() -> None:
    with worlds() as made:
        noops = noop_us(made)
        writers = {name: world.replica("ann") for name, world in made.items()}
        uploads: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(TURNS):
            for name, world in made.items():
                uploads[name].append(upload_per_s(world, writers[name]))
        latencies = {name: latency_ms(world) for name, world in made.items()}
        downloads = {name: download_per_s(world) for name, world in made.items()}
        later = noop_us(made)
        snapshots = {name: snapshot_s(world) for name, world in made.items()}
    figures = {
        "noop exchange, us": noops,
        f"noop behind {(TURNS * UPLOAD + 2 * DOWNLOAD) // 1000}k actions, us": later,
        f"upload of {UPLOAD:,}, actions/s": {n: median(rates) for n, rates in uploads.items()},
        f"download and replay of {DOWNLOAD:,}, /s": {n: d[0] for n, d in downloads.items()},
        "longest wait of a run meanwhile, ms": {n: d[1] for n, d in downloads.items()},
        "from run to the other replica, ms": latencies,
        f"new replica of {SNAPSHOT // 1000}k rows, s": snapshots,
    }
    tell(
        "http: end to end",
        ["work", *made],
        [[work, *(by_world[name] for name in made)] for work, by_world in figures.items()],
    )


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1:2] == ["serve"] else main()
