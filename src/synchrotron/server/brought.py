"""What an upload brings, read once: its form, and what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from synchrotron.core.canonical import text_of
from synchrotron.core.ids import Audience
from synchrotron.core.messages import RowPatch, SentAction, SentCorrection
from synchrotron.core.patches import Patch, RowKey, Target
from synchrotron.server.form import Form, has_form
from synchrotron.server.parameters import json_text


class Proposed(NamedTuple):
    """A patch of a message, read once."""

    fault: str | None
    """What is wrong with its form; then it is nothing else."""
    target: Target
    row: RowKey
    key: str
    """The target's key as it is stored."""
    patch: Patch | None


class Brought:
    """New actions, and corrections.

    Whom they concern and the keys of their rows are known at once. To judge their form takes
    longer: `read` does it, while PostgreSQL looks up what is stored of those rows.
    """

    def __init__(
        self, form: Form, actions: Sequence[SentAction], corrections: Sequence[SentCorrection]
    ) -> None:
        self._form = form
        self.actions = actions
        self.corrections = corrections

    @cached_property
    def declared(self) -> list[Audience]:
        """The audiences that actions declare."""
        declared = (sent.record.audiences for sent in self.actions)
        return list(dict.fromkeys(chain.from_iterable(filter(None, declared))))

    @cached_property
    def patched(self) -> list[Audience]:
        """The audiences in which actions change rows."""
        return audiences_of(sent.patches for sent in self.actions)

    @cached_property
    def keys(self) -> str:
        """The keys of the rows that are touched, as `synchrotron.load_targets` takes them."""
        return json_text({table: list(keys) for table, keys in self._keys.items()})

    @property
    def tables(self) -> Iterable[str]:
        """The tables of the rows that are touched."""
        return self._keys

    @cached_property
    def only_inserts(self) -> bool:
        """Whether all that it does is to insert rows, each of them once."""
        ops = [patch.op for patch in self._patches()]
        different_rows = sum(map(len, self._keys.values()))
        return {"insert"}.issuperset(ops) and different_rows == len(ops) and not self.corrections

    @cached_property
    def _keys(self) -> dict[str, dict[str, None]]:
        """Of each table that is touched, the keys that have a form."""
        wanted: dict[str, dict[str, None]] = {name: {} for name in self._form.schema.tables}
        patches = [patch for patch in self._patches() if patch.table in wanted]
        if not has_form([patch.key for patch in patches]):
            patches = [patch for patch in patches if has_form(patch.key)]
        for patch in patches:
            wanted[patch.table][text_of(patch.key)] = None
        return {table: keys for table, keys in wanted.items() if keys}

    def read(self) -> None:
        """Judge the form of everything."""
        _ = self.proposed, self.records_fit

    @cached_property
    def proposed(self) -> dict[int, Proposed]:
        """By the `id` of each patch: what it proposes."""
        patches = list(self._patches())
        doubtful = {id(patch) for patch in self._form.in_doubt(patches)}
        faults = [self._form.fault(p) if id(p) in doubtful else None for p in patches]
        return {id(p): _proposed(p, fault) for p, fault in zip(patches, faults, strict=True)}

    @cached_property
    def records_fit(self) -> bool:
        """Whether all records can be stored. If not, `Form.record_fault` says which cannot."""
        return Form.records_fit([sent.record for sent in self.actions])

    def _patches(self) -> Iterator[RowPatch]:
        for sent in self.actions:
            yield from sent.patches
        for correction in self.corrections:
            yield correction.patch


def _proposed(sent: RowPatch, fault: str | None) -> Proposed:
    target = sent.target
    if fault is not None:
        return Proposed(fault, target, target.row, "", None)
    return Proposed(None, target, target.row, text_of(sent.key), sent.patch)


def audiences_of(patches: Iterable[Iterable[RowPatch]]) -> list[Audience]:
    """The audiences of some patches, each once."""
    return list(dict.fromkeys([patch.audience for some in patches for patch in some]))
