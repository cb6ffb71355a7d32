"""What a replica takes: bytes of its file by action, and memory.

One row an action, on a file, against the same rows in a plain database; memory is what the
process has grown by, with each replica in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.application import app, create_project, create_todo
from benchmarks.local_run import plain_database
from benchmarks.measuring import tell

ACTIONS = (1_000, 10_000, 50_000)


def measure(kind: str, actions: int, folder: Path) -> dict[str, float]:
    """Bytes of the file, and how many the process grew by. In a process of its own."""
    import psutil

    path = folder / f"{kind}-{actions}.db"
    process = psutil.Process()
    ids = [str(uuid.uuid4()) for _ in range(actions)]
    if kind == "plain":
        plain = plain_database(path)
        before = process.memory_info().rss
        for id in ids:
            plain.execute(
                "INSERT INTO todo (id, project_id, text) VALUES (?, 'p1', 'Buy milk')", (id,)
            )
        grown = process.memory_info().rss - before
        plain.close()
    else:
        before = process.memory_info().rss
        replica = app.open(path, user="alice")
        replica.run(create_project, id="p1")
        for id in ids:
            replica.run(create_todo, id=id, project_id="p1")
        grown = process.memory_info().rss - before
        replica.close()
    return {"file": path.stat().st_size, "memory": grown}


def main() -> None:
    rows = []
    with TemporaryDirectory() as folder:
        for actions in ACTIONS:
            plain, replica = (_apart(kind, actions, folder) for kind in ("plain", "replica"))
            rows.append(
                [
                    f"{actions:,}",
                    plain["file"] / actions,
                    replica["file"] / actions,
                    replica["file"] / plain["file"],
                    plain["memory"] / 2**20,
                    replica["memory"] / 2**20,
                ]
            )
    tell(
        "size: one row an action, pending",
        ["actions", "plain B each", "replica B each", "ratio", "plain MiB", "replica MiB"],
        rows,
    )


def _apart(kind: str, actions: int, folder: str) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.size", kind, str(actions), folder],
        capture_output=True,
        check=True,
    )
    found: dict[str, float] = json.loads(run.stdout)
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
