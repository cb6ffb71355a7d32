"""The server's own share, end to end: HTTP in front, PostgreSQL behind, every commit durable.

Each exchange is taken apart: what the replica needs to ask, what it waits for its server, and
what it needs to take the answer in. So the server is told apart from the replica beside it.
`python -m benchmarks.server` alone; the figures of a whole sync are in `benchmarks.http`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from benchmarks.application import create_todos
from benchmarks.http import (
    USERS,
    World,
    create,
    create_project,
    database_in_a_cluster,
    over_http,
    seconds,
    server_process,
)
from benchmarks.measuring import in_turns, tell
from synchrotron import Replica
from synchrotron.core.messages import Exchange, Ok, SyncAnswer, SyncRequest
from synchrotron.replica.syncing import deliver

UPLOAD = 5_000
FEW = 1_000
WARM_UP_TURNS = 3
"""Not counted: the system is still writing the files of the cluster that was just made."""
TURNS = 7
NOOPS = 100
BEHIND = 10_000
LATE = 40
SNAPSHOT = 100_000


class Times(NamedTuple):
    """The seconds of one exchange."""

    ask: float
    server: float
    take: float


def exchange(replica: Replica, *, upload: bool = True) -> tuple[Times, bool]:
    """One exchange, taken apart; whether there is more to fetch."""
    engine, transport = replica._engine, replica._syncing.transport
    begin_s = time.perf_counter()
    request = engine.ask(upload=upload)
    asked_s = time.perf_counter()
    _, answer = deliver(transport, request)
    answered_s = time.perf_counter()
    engine.take(request, answer)
    taken_s = time.perf_counter()
    assert isinstance(answer, Ok), answer
    times = Times(asked_s - begin_s, answered_s - asked_s, taken_s - answered_s)
    return times, answer.download.more


def upload(writer: Replica, count: int = UPLOAD) -> Times:
    create(writer, count)
    times, _ = exchange(writer)
    return times


def download(reader: Replica) -> Times:
    """All pages, one after another."""
    pages: list[Times] = []
    more = True
    while more:
        times, more = exchange(reader, upload=False)
        pages.append(times)
    return Times(*(sum(part) for part in zip(*pages, strict=True)))


def transfers(world: World) -> list[list[object]]:
    """Actions per second of a whole sync, and of its exchanges taken apart, in turns.

    A sync asks for the next page while it takes one in, so it takes less than its parts.
    """
    writer, reader = world.replica("ann"), world.replica("bob")
    rows: list[list[object]] = []
    for count in (FEW, UPLOAD):
        whole: dict[str, list[float]] = {"upload": [], "download": []}
        apart: dict[str, list[Times]] = {"upload": [], "download": []}
        for _ in range(WARM_UP_TURNS if count == FEW else 0):
            upload(writer, count)
            download(reader)
        for _ in range(TURNS):
            apart["upload"].append(upload(writer, count))
            apart["download"].append(download(reader))
            create(writer, count)
            whole["upload"].append(seconds(writer.sync))
            whole["download"].append(seconds(reader.sync))
        for name, times in apart.items():
            server_s = median(one.server for one in times)
            parts = zip(*times, strict=True)
            rows.append(
                [
                    f"{name} of {count:,}",
                    count / median(whole[name]),
                    count / server_s,
                    *(median(part) * 1e6 / count for part in parts),
                ]
            )
    return rows


def noops_ms(young: World, old: World) -> tuple[float, float]:
    """A sync without news, without history and behind it, in turns."""
    replicas = {"young": young.replica("ann"), "old": old.replica("ann")}
    found = in_turns(NOOPS, **{name: replica.sync for name, replica in replicas.items()})
    return found["young"] / 1000, found["old"] / 1000


def late_ms(world: World) -> tuple[float, float]:
    """The exchange of one action that comes last, and of one behind many others, in turns."""
    sleeper, writer = world.replica("cid"), world.replica("ann")
    create(sleeper, LATE)
    for _ in range(BEHIND // UPLOAD):
        upload(writer)
    download(sleeper)
    return late_and_last_ms(sleeper, LATE)


def late_and_last_ms(
    sleeper: Replica, late_count: int, run: Callable[[Replica], object] = lambda r: create(r, 1)
) -> tuple[float, float]:
    """The same for a replica that ran so many actions before the others' came.

    It runs as many more, and each goes in a request of its own. The replica is of no use then.
    """
    for _ in range(late_count):
        run(sleeper)
    download(sleeper)
    request = sleeper._engine.ask()
    late, last = request.actions[:late_count], request.actions[late_count:]
    tokens = [*request.exchange.earlier, request.exchange.token]
    times: dict[str, list[float]] = {"late": [], "last": []}
    transport = sleeper._syncing.transport
    for pair in zip(late, last, strict=True):
        for name, action in zip(times, pair, strict=True):
            one = _next(msgspec.structs.replace(request, actions=[action]), tokens)
            begin_s = time.perf_counter()
            answer: SyncAnswer = transport.exchange(one)
            times[name].append((time.perf_counter() - begin_s) * 1000)
            assert isinstance(answer, Ok), answer
    return median(times["last"]), median(times["late"])


def _next(request: SyncRequest, tokens: list[str]) -> SyncRequest:
    asked = request.exchange
    token = f"{len(tokens):024x}"
    tokens.append(token)
    number = asked.number + len(tokens)
    return msgspec.structs.replace(
        request, exchange=Exchange(asked.client_id, number, token, tokens[:-1])
    )


def snapshot_s(world: World) -> float:
    """How long a new replica takes to have all rows."""
    writer = world.replica("ann")
    [row] = writer.query("SELECT count(*) AS n FROM todo")
    for _ in range(max(0, SNAPSHOT - row["n"]) // 1000):
        writer.run(create_todos, count=1000, project_id="p1")
        writer.sync()
    return seconds(lambda: world.replica("bob"))


@contextmanager
def worlds() -> Iterator[dict[str, World]]:
    """Two servers with a database each: one that stays young, and one that gets a history."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        made = {}
        for name in ("young", "old"):
            database = opened.enter_context(database_in_a_cluster(folder / name))
            made[name] = over_http(folder, opened.enter_context(server_process(database)))
            opened.callback(made[name].close)
            first = made[name].replica("ann")
            first.run(create_project, id="p1", members=list(USERS))
            first.sync()
        yield made


def main() -> None:
    with worlds() as made:
        moved = transfers(made["old"])
        young, old = noops_ms(made["young"], made["old"])
        last, late = late_ms(made["old"])
        rows_s = snapshot_s(made["old"])
    tell(
        "server-transfers: through HTTP into durable PostgreSQL and back",
        ["work", "actions/s", "by the server alone", "asking, us", "server, us", "taking in, us"],
        moved,
    )
    tell(
        "server-latencies: what depends on history, and what must not",
        ["work", "ms", "compared with", "ms there", "ratio"],
        [
            [
                f"noop behind {WARM_UP_TURNS * FEW + 2 * TURNS * (FEW + UPLOAD):,} actions",
                old,
                "noop without history",
                young,
                old / young,
            ],
            [
                f"one action behind {BEHIND:,} others",
                late,
                "one that comes last",
                last,
                late / last,
            ],
            [f"new replica of {SNAPSHOT:,} rows", rows_s * 1000, "5 s", 5000.0, rows_s / 5],
        ],
    )


if __name__ == "__main__":
    main()
