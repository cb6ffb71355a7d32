"""Encryption at rest, by SQLite3 Multiple Ciphers: the file, its WAL and its journals.

`apsw-sqlite3mc` is APSW built with it, under the same module name, so that nothing else
of the store knows of it. Temporary tables stay in memory in any case.
"""

from __future__ import annotations

import apsw

from synchrotron.errors import EncryptionMissing, UsageError

Key = str | bytes
"""A passphrase, or raw bytes."""

REMEDY = (
    "this SQLite cannot encrypt: install the one that can in place of apsw, with "
    "`pip install --force-reinstall --no-deps apsw-sqlite3mc`"
)


def unlock(connection: apsw.Connection, key: Key) -> None:
    """Make a fresh connection read and write with a key. Whether it fits shows at the first read.

    Raises `EncryptionMissing`, and `UsageError` for an empty key, which would mean none.
    """
    if not key:
        raise UsageError("an empty key does not encrypt: leave key out, or give one")
    if not hasattr(apsw, "mc_version"):
        raise EncryptionMissing(REMEDY)
    if isinstance(key, str):
        connection.pragma("key", key)
    else:
        connection.pragma("hexkey", key.hex())
