"""How many replicas can work at once on one server, and how long each has to wait.

1, 2, 4, … 64 replicas, each in a process of its own, repeat one thing for some seconds. Without
a pause they sync without news, or run an action and sync it, in a project of their own or in one
that all share. Or they keep in step in the background and run an action a second, as people do;
then what is told is how long each action took to be accepted. They are on the server's machine,
and take most of it; so the processor time of the server's process and of PostgreSQL for each
exchange is told as well.

    python -m benchmarks.crowd            # up to 64
    python -m benchmarks.crowd 1 4
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.application import app, create_project, create_todo
from benchmarks.http import SECRET, database_in_a_cluster, over_http, seconds, server_process_of
from benchmarks.measuring import tell
from benchmarks.processors import Processors
from synchrotron import Outcome, Replica
from synchrotron.server.tokens import sign

CROWDS = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 2.0
PACE_S = 1.0
RUNS_AT_A_PACE = 3
PATIENCE_S = 180.0
ALL = "all"
"""The project of everyone."""
WORKS = ("no news", "own project", "one project", "one project, at a pace")


def member(n: int) -> str:
    return f"user{n}"


# ---- a replica's process -----------------------------------------------------------------


def be_replica(url: str, n: int, path: Path, main: Any) -> None:
    """Do what `main` says, one work after another, and tell how long each time took."""
    user = member(n)
    with app.open(path, server=url, token=sign(SECRET, user, time.time(), 3600)) as replica:
        replica.run(create_project, id=user, members=[user])
        writing = Writing(replica, user)
        works = {
            "no news": lambda: repeated(replica.sync),
            "own project": lambda: repeated(lambda: writing.synced(user)),
            "one project": lambda: repeated(lambda: writing.synced(ALL)),
            "one project, at a pace": lambda: writing.at_a_pace(ALL),
        }
        replica.sync()
        main.send("here")
        while (name := main.recv()) is not None:
            replica.sync()
            main.send("ready")
            main.recv()
            main.send(works[name]())


class Writing:
    """One todo after another."""

    def __init__(self, replica: Replica, user: str) -> None:
        self._replica = replica
        self._ids = (f"{user}-{n}" for n in count())

    def synced(self, project: str) -> None:
        self._create(project)
        self._replica.sync()

    def at_a_pace(self, project: str) -> list[float]:
        """The milliseconds from each run until it was accepted."""
        begun_s: dict[str, float] = {}
        accepted_s: dict[str, float] = {}

        def note(outcome: Outcome) -> None:
            accepted_s[outcome.id] = time.perf_counter()

        stop = self._replica.on("accepted", note)
        with self._replica.syncing():
            for _ in range(RUNS_AT_A_PACE):
                begin_s = time.perf_counter()
                begun_s[self._create(project)] = begin_s
                time.sleep(PACE_S)
            for id in begun_s:
                self._replica.wait_for(id, PATIENCE_S)
        stop()
        return [(accepted_s[id] - begin_s) * 1000 for id, begin_s in begun_s.items()]

    def _create(self, project: str) -> str:
        return self._replica.run(create_todo, id=next(self._ids), project_id=project).id


def repeated(work: Callable[[], object]) -> list[float]:
    """The milliseconds of each time that was begun within SECONDS."""
    until_s = time.perf_counter() + SECONDS
    times_ms = []
    while time.perf_counter() < until_s:
        times_ms.append(seconds(work) * 1000)
    return times_ms


# ---- the crowd ---------------------------------------------------------------------------


class Crowd:
    """Replicas that wait to be told what to do."""

    def __init__(self, url: str, folder: Path, size: int) -> None:
        processes = get_context("forkserver")  # imports once
        processes.set_forkserver_preload(["benchmarks.http"])
        self._pipes: list[Any] = []
        self._processes = []
        for n in range(size):
            here, there = processes.Pipe()
            arguments = (url, n, folder / f"replica{n}.db", there)
            process = processes.Process(target=be_replica, args=arguments, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            assert here.recv() == "here"  # in turn: a server streams few snapshots at once
            self._processes.append(process)

    def prepare(self, name: str, count: int) -> None:
        """The first so many get in step, and wait for the beginning."""
        for pipe in self._pipes[:count]:
            pipe.send(name)
        for pipe in self._pipes[:count]:
            assert pipe.recv() == "ready"

    def work(self, count: int) -> list[float]:
        """All at once; how long each time took each of them, in milliseconds."""
        for pipe in self._pipes[:count]:
            pipe.send("begin")
        return [ms for pipe in self._pipes[:count] for ms in pipe.recv()]

    def close(self) -> None:
        for pipe in self._pipes:
            with suppress(OSError):  # one that failed has told it
                pipe.send(None)
        for process in self._processes:
            process.join()


def answers(url: str) -> dict[str, float]:
    """How many answers of each kind the server gave."""
    with urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    return {
        sample.labels["kind"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "synchrotron_answers_total"
    }


def measure(crowd: Crowd, name: str, size: int, url: str, processors: Processors) -> list[Any]:
    crowd.prepare(name, size)
    before, asked, begin_s = processors.used(), sum(answers(url).values()), time.perf_counter()
    times_ms = crowd.work(size)
    taken_s = time.perf_counter() - begin_s
    used = processors.used().since(before)
    exchanges = sum(answers(url).values()) - asked
    return [
        name,
        size,
        len(times_ms) / taken_s,
        median(times_ms),
        quantiles(times_ms, n=20)[-1],
        exchanges / len(times_ms),
        used.server * 1000 / exchanges,
        used.postgres * 1000 / exchanges,
    ]


@contextmanager
def crowds(largest: int) -> Iterator[tuple[Crowd, str, Processors]]:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        database = opened.enter_context(database_in_a_cluster(folder))
        url, pid = opened.enter_context(server_process_of(database))
        first = over_http(folder, url)
        opened.callback(first.close)
        founder = first.replica("ann")
        founder.run(create_project, id=ALL, members=[member(n) for n in range(largest)])
        founder.sync()
        crowd = Crowd(url, folder, largest)
        opened.callback(crowd.close)
        yield crowd, url, Processors(pid, database)


def main(sizes: tuple[int, ...] = CROWDS) -> None:
    with crowds(max(sizes)) as (crowd, url, processors):
        rows = [measure(crowd, name, size, url, processors) for name in WORKS for size in sizes]
    tell(
        "crowd: replicas at work at once, over HTTP and PostgreSQL",
        ["work", "replicas", "per s", "median ms", "95th percentile ms", "exchanges each",
         "server ms", "postgres ms"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or CROWDS)
