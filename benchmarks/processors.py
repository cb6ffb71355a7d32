"""Processor time: what a server's process used, and what its PostgreSQL did.

On a machine that replicas share with their server, throughput is a figure of all of them;
processor time tells the server's part of it, and what one core could do.
"""

from __future__ import annotations

from typing import NamedTuple

import psutil
import psycopg


class Used(NamedTuple):
    """Seconds of processor time."""

    server: float
    postgres: float

    def since(self, before: Used) -> Used:
        return Used(self.server - before.server, self.postgres - before.postgres)


class Processors:
    """Those of one server process, and of a PostgreSQL on the same machine."""

    def __init__(self, server_pid: int, database: str) -> None:
        self._server = psutil.Process(server_pid)
        with psycopg.connect(database) as connection:
            [pid] = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
            self._postmaster = psutil.Process(pid).parent()

    def used(self) -> Used:
        return Used(_own(self._server), self._of_postgres())

    def server_mb(self) -> float:
        """What the server's process has of memory now."""
        return float(self._server.memory_info().rss / 2**20)

    def _of_postgres(self) -> float:
        """Of all its processes; those that ended are their parent's."""
        times = self._postmaster.cpu_times()
        total = _own(self._postmaster) + times.children_user + times.children_system
        for process in self._postmaster.children():
            try:
                total += _own(process)
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        return float(total)


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
