"""The SQL that an installation runs, and a fingerprint of it.

A server calls functions that an installation has made. It works with those that its own version
makes, and with no others: called with what another version sends, they would refuse every
action, and replicas would set them aside for a mistake of whoever deploys.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from synchrotron.app.schema import Schema
from synchrotron.server.tables import ServerTable

_FOLDER = files("synchrotron.server").joinpath("sql")


def script(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return _FOLDER.joinpath(f"{name}.sql").read_text("utf-8")


def fingerprint(schema: Schema) -> str:
    """Of all that this version of Synchrotron makes for a schema, but for the policies."""
    names = sorted(file.name for file in _FOLDER.iterdir() if file.name.endswith(".sql"))
    made = [script(name.removesuffix(".sql")) for name in names]
    for table in map(ServerTable, schema.tables.values()):
        made += [*table.shadow_statements(), *table.functions(schema)]
    return sha256("\n".join(made).encode()).hexdigest()
