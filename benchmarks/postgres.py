"""PostgreSQL behind the port, beside MemoryServer: what judging and storing cost.

Replicas and the authority are in this process, PostgreSQL in its own, durable as it would be
in service: so what is told is the price of PostgreSQL, without HTTP.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from tests.postgres.bridge import Served
from tests.postgres.cluster import execute

from benchmarks.application import app, create_project, create_todo, create_todos, finish
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.server.embedded import EmbeddedPostgres
from synchrotron.server.install import install
from synchrotron.testing import MemoryServer

USERS = ("ann", "bob", "cid")
NOOPS = 100
UPLOAD = 1_000
TURNS = 5
DOWNLOAD = 5_000
BEHIND = 10_000
LATE = 30
SNAPSHOT = 100_000
GIVEN = "SELECT user_id, audience_key FROM public.given_members"

_ids = map(str, itertools.count())


class World:
    """Replicas of one server."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._opened: list[Replica] = []
        first = self.replica("ann")
        first.run(create_project, id="p1")
        first.sync()

    def replica(self, user: str) -> Replica:
        """A new replica, in step."""
        path = self._folder / f"{next(_ids)}.db"
        self._opened.append(app.open(path, transport=self._server.connect(user)))
        self._opened[-1].sync()
        return self._opened[-1]

    def close(self) -> None:
        for replica in self._opened:
            replica.close()


def create(replica: Replica, count: int) -> list[str]:
    ids = [next(_ids) for _ in range(count)]
    for id in ids:
        replica.run(create_todo, id=id, project_id="p1")
    return ids


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def noop_us(worlds: dict[str, World]) -> dict[str, float]:
    replicas = {name: world.replica("ann") for name, world in worlds.items()}
    return in_turns(NOOPS, **{name: replica.sync for name, replica in replicas.items()})


def upload_per_s(writer: Replica) -> float:
    create(writer, UPLOAD)
    return UPLOAD / seconds(writer.sync)


def download_per_s(world: World) -> float:
    reader, writer = world.replica("bob"), world.replica("ann")
    create(writer, DOWNLOAD)
    writer.sync()
    return DOWNLOAD / seconds(reader.sync)


def late_ms(world: World) -> tuple[float, float]:
    """The exchange of an action that comes last, and of one behind many others."""
    writer, sleeper = world.replica("ann"), world.replica("ann")
    mine = create(sleeper, LATE)
    sleeper.sync()
    asleep = [sleeper.run(finish, id=id, project_id="p1") for id in mine[:1]]
    assert asleep
    create(writer, BEHIND)
    writer.sync()
    last = []
    for _ in range(LATE):
        create(writer, 1)
        last.append(seconds(writer.sync))
    # The others' actions have to be taken in first; then only the upload is measured.
    engine, transport = sleeper._engine, sleeper._syncing._transport
    request = engine.ask(upload=False)
    while True:
        answer = transport.exchange(request)
        engine.take(request, answer)
        if not answer.download.more:  # type: ignore[union-attr]
            break
        request = engine.ask(upload=False)
    request = engine.ask(upload=True)
    late = seconds(lambda: transport.exchange(request))
    return median(last) * 1000, late * 1000


def snapshot_s(world: World) -> float:
    writer = world.replica("cid")
    rows = writer.query("SELECT count(*) AS n FROM todo")[0]["n"]
    for _ in range((SNAPSHOT - rows) // 1000):
        writer.run(create_todos, count=1000, project_id="p1")
        writer.sync()
    return seconds(lambda: world.replica("bob"))


def main() -> None:
    with TemporaryDirectory() as folder, EmbeddedPostgres() as postgres:
        database = postgres.database("bench")
        execute(database, "CREATE TABLE given_members (user_id text, audience_key text)")
        execute(database, "GRANT SELECT ON given_members TO PUBLIC")
        for user in USERS:
            execute(database, "INSERT INTO given_members VALUES (%s, 'project:p1')", user)
        install(
            SimpleNamespace(name="bench", sources=app.sources, audiences=GIVEN, policies=None),
            database,
        )
        served = Served(database)
        memory = MemoryServer(app, {user: {"project:p1"} for user in USERS})
        worlds = {
            "memory": World(memory, Path(folder)),
            "postgres": World(served, Path(folder)),
        }
        try:
            measure(worlds)
        finally:
            for world in worlds.values():
                world.close()
            served.close()


def measure(worlds: dict[str, World]) -> None:
    noops = noop_us(worlds)
    writers = {name: world.replica("ann") for name, world in worlds.items()}
    uploads: dict[str, list[float]] = {name: [] for name in worlds}
    for _ in range(TURNS):
        for name in worlds:
            uploads[name].append(upload_per_s(writers[name]))
    downloads = {name: download_per_s(world) for name, world in worlds.items()}
    late = {name: late_ms(world) for name, world in worlds.items()}
    later = noop_us(worlds)
    snapshots = {name: snapshot_s(world) for name, world in worlds.items()}
    figures = {
        "noop exchange, us": noops,
        "noop behind 20k actions, us": later,
        "upload, actions/s": {n: median(rates) for n, rates in uploads.items()},
        "download and replay, actions/s": downloads,
        "sync of an action that comes last, ms": {n: pair[0] for n, pair in late.items()},
        "exchange of one behind 10k others, ms": {n: pair[1] for n, pair in late.items()},
        f"new replica of {SNAPSHOT // 1000}k rows, s": snapshots,
    }
    tell(
        "postgres: the authority in PostgreSQL beside MemoryServer, without HTTP",
        ["work", "memory", "postgres", "ratio"],
        [[w, f["memory"], f["postgres"], f["postgres"] / f["memory"]] for w, f in figures.items()],
    )


if __name__ == "__main__":
    main()
