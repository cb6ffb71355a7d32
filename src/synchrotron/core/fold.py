"""The fold: what a row is after its patches, in order (H5).

The one fold there is. The server keeps its tables by it, snapshots are made of it,
and the tests' oracle compares with it.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

from synchrotron.core.patches import Patch, Target, Values

Rows = MutableMapping[Target, Values]


def apply(row: Values | None, patch: Patch | None) -> Values | None:
    """The row after one patch: an insert replaces what is there, an update needs a row."""
    match patch:
        case Patch(op="insert"):
            return patch.values
        case Patch(op="update"):
            return None if row is None else {**row, **patch.values}
        case Patch(op="delete"):
            return None
        case _:
            return row


def fold(row: Values | None, patches: Iterable[Patch | None]) -> Values | None:
    """The row after `patches`, given in the order of their actions."""
    for patch in patches:
        row = apply(row, patch)
    return row


def apply_to(rows: Rows, target: Target, patch: Patch | None) -> None:
    """Apply one patch in place to a table of rows."""
    row = apply(rows.get(target), patch)
    if row is None:
        rows.pop(target, None)
    else:
        rows[target] = row
