"""Memory of server and replica over a long download and a large snapshot: flat, or not.

A history of so many actions is uploaded; then a new server process answers one replica that
missed all of it, and one that is new. Each process tells its peak of resident memory, for a
history and for one ten times as long: the ratio should be near 1 for what is streamed.
(Linux only: the figures are from /proc.)

    python -m benchmarks.memory            # 10,000 and 100,000
    python -m benchmarks.memory 1000 10000
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo
from benchmarks.http import SECRET, database_in_a_cluster, server_process_of
from benchmarks.measuring import tell
from synchrotron import Replica
from synchrotron.server.tokens import sign

ACTIONS = (10_000, 100_000)
PER_UPLOAD = 1_000
FIELDS = ("server, before", "server, download", "server, snapshot", "replica, download",
          "replica, snapshot")  # fmt: skip


def open_replica(url: str, path: Path) -> Replica:
    return app.open(path, server=url, token=sign(SECRET, "ann", time.time(), 3600))


def peak_mb(pid: int | str = "self") -> float:
    """The peak of a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def sync(url: str, path: str) -> None:
    """The process of one replica: get in step, and tell the peak."""
    with open_replica(url, Path(path)) as replica:
        replica.sync()
        [row] = replica.query("SELECT count(*) AS n FROM todo")
    print(row["n"], peak_mb())


def synced_mb(url: str, path: Path, rows: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "sync", url, str(path)]
    there, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(there) == rows, f"{there} of {rows} rows came"
    return float(peak)


def measure(actions: int) -> list[float]:
    """The peaks, in MB, in the order of FIELDS."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        database = opened.enter_context(database_in_a_cluster(folder))
        with server_process_of(database) as (url, _), open_replica(url, folder / "w") as writer:
            writer.run(create_project, id="p1", members=["ann"])
            writer.sync()
            open_replica(url, folder / "missed").close()
            synced_mb(url, folder / "missed", 0)
            for first in range(0, actions, PER_UPLOAD):
                for i in range(first, first + PER_UPLOAD):
                    writer.run(create_todo, id=str(i), project_id="p1")
                writer.sync()
        with server_process_of(database) as (url, pid):
            before = peak_mb(pid)
            replica_download = synced_mb(url, folder / "missed", actions)
            download = peak_mb(pid)
        with server_process_of(database) as (url, pid):
            replica_snapshot = synced_mb(url, folder / "new", actions)
            return [before, download, peak_mb(pid), replica_download, replica_snapshot]


def main(sizes: tuple[int, ...] = ACTIONS) -> None:
    peaks = {actions: measure(actions) for actions in sizes}
    small, large = peaks[sizes[0]], peaks[sizes[-1]]
    rows = [[name, small[i], large[i], large[i] / small[i]] for i, name in enumerate(FIELDS)]
    tell(
        "memory: the peak of each process, MB",
        ["process", *(f"{actions:,} actions" for actions in (sizes[0], sizes[-1])), "ratio"],
        rows,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["sync"]:
        sync(*sys.argv[2:])
    else:
        main(tuple(map(int, sys.argv[1:])) or ACTIONS)
