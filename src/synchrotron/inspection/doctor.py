"""All checks of a replica's file, in the order in which each makes sense of the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from synchrotron.app.definition import Definition
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.health import (
    Check,
    Finding,
    check_foreign_keys,
    check_guards,
    check_integrity,
    check_place,
    check_versions,
)
from synchrotron.inspection.history import (
    check_application,
    check_audiences,
    check_clock,
    check_log,
    check_rows,
    check_state,
    check_waiting,
)

FOUNDATIONS = (
    Check("libraries", check_versions),
    Check("SQLite's integrity", check_integrity),
    Check("guards against other programs", check_guards),
    Check("log", check_log),
)
"""A fault in one of these leaves nothing of the others to be relied on."""
CHECKS = (
    Check("rows against the log", check_rows),
    Check("foreign keys", check_foreign_keys),
    Check("audiences", check_audiences),
    Check("sync", check_state),
    Check("queue", check_waiting),
    Check("clock", check_clock),
    Check("disk", check_place),
)


class Checked(msgspec.Struct):
    """A check and what it found; None where it was left out because of an earlier fault."""

    name: str
    findings: list[Finding] | None

    @property
    def faulty(self) -> bool:
        return any(finding.level == "fault" for finding in self.findings or ())


def examine(
    file: ReplicaFile,
    now_ms: int,
    definition: Definition | None = None,
    begin: Callable[[str], object] = lambda name: None,
) -> Iterator[Checked]:
    """Carry out all checks. `begin` is told of each: it may take a while."""
    sound = True
    for check in (*FOUNDATIONS, *_checks(definition)):
        if not sound:
            yield Checked(check.name, None)
            continue
        begin(check.name)
        checked = Checked(check.name, list(check.find(file, now_ms)))
        sound = check not in FOUNDATIONS or not checked.faulty
        yield checked


def _checks(definition: Definition | None) -> Sequence[Check]:
    if definition is None:
        return CHECKS
    return (*CHECKS, Check("application", check_application(definition)))
