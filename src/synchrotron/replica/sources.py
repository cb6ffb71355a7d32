"""Which code an action had when it ran, in strict mode.

History is replayed by the code of today. Where that came to mean something else under the
same name and version, replicas with the old and the new program replay the same record
differently, until a correction settles it. So a replica in strict mode keeps what each
action looked like when it first ran there, and warns of one that was changed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import apsw

from synchrotron.app.action import Action
from synchrotron.core.records import ActionRecord
from synchrotron.replica.impurity import (
    complaint_of_locale,
    formats_by_locale,
    home_of,
    warn_at,
)

_TABLE = """
    CREATE TABLE IF NOT EXISTS synchrotron_source (
        name TEXT, version INTEGER, fingerprint TEXT NOT NULL, PRIMARY KEY (name, version)
    ) WITHOUT ROWID"""


class Sources:
    """What each action looked like. The caller owns the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._settled: set[Action[Any, Any]] = set()

    def warn_of_changes(
        self, actions: Mapping[tuple[str, int], Action[Any, Any]], history: Iterable[ActionRecord]
    ) -> None:
        """Warn of actions in `history` whose code is another than when they ran."""
        used = {(record.name, record.version) for record in history}
        for (name, version), old in self._read().items():
            action = actions.get((name, version))
            if action is None or (name, version) not in used or _alike(fingerprint(action), old):
                continue
            self._settled.add(action)  # what it looked like then is kept: warn again next time
            site = home_of(action)
            warn_at(
                f"{action.title} was changed after it ran, at {site}. Its runs will be replayed "
                f"by the new code: give that version={version + 1} and leave the old one beside "
                "it, until no history holds it any more",
                site,
            )

    def note(self, action: Action[Any, Any]) -> None:
        """An action ran. The first time, look at what its code shows, and keep it."""
        if action in self._settled:
            return
        home, tree = home_of(action), syntax_of(action)
        for line in formats_by_locale(tree) if tree else ():
            site = home._replace(line=home.line + line - 1)
            warn_at(complaint_of_locale(action, site), site)
        self._connection.execute(_TABLE)
        self._connection.execute(
            "INSERT OR REPLACE INTO synchrotron_source VALUES (?, ?, ?)",
            (action.name, action.version, fingerprint(action)),
        )
        self._settled.add(action)

    def _read(self) -> dict[tuple[str, int], str]:
        there = "SELECT count(*) FROM sqlite_master WHERE name = 'synchrotron_source'"
        if not self._connection.execute(there).get:
            return {}
        found = self._connection.execute(
            "SELECT name, version, fingerprint FROM synchrotron_source"
        )
        return {(name, version): fingerprint for name, version, fingerprint in found}


def syntax_of(action: Action[Any, Any]) -> ast.FunctionDef | None:
    """The syntax tree of an action, its first line being 1; None where there is no source."""
    try:
        text = textwrap.dedent(inspect.getsource(action.function))
        tree = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def fingerprint(action: Action[Any, Any]) -> str:
    """What the code does, whatever its comments, spaces and decorators.

    Two Pythons may see one source differently: theirs cannot be compared.
    """
    tree = syntax_of(action)
    if tree is None:
        code = getattr(action.function, "__code__", None)
        text = "" if code is None else repr((code.co_code, code.co_consts, code.co_names))
    else:
        tree.decorator_list = []
        if ast.get_docstring(tree) is not None:
            tree.body = tree.body[1:]
        text = ast.dump(tree)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{python}:{hashlib.sha256(text.encode()).hexdigest()}"


def _alike(new: str, old: str) -> bool:
    return new == old or new.partition(":")[0] != old.partition(":")[0]
