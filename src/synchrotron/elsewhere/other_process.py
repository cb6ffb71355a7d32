"""The same run in other processes: with other hash seeds, time zones and locales.

Within one process a set keeps its order, `hash("x")` its value and a global its state from
import to import. Another process has its own, as another replica will. It imports the
application by the name of its module, gets the rows and the record, runs the action, and
tells what that came to.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from synchrotron.app.action import Action
from synchrotron.app.definition import Definition
from synchrotron.core.records import ActionRecord
from synchrotron.elsewhere.copies import Rows, copied, undone
from synchrotron.replica.attempts import NotingRunner, Told

# A set of two has the same order in one of two processes: three miss it once in eight times.
ENVIRONMENTS = (
    {"PYTHONHASHSEED": "1", "TZ": "AAA+11", "LC_ALL": "de_DE.UTF-8"},
    {"PYTHONHASHSEED": "2", "TZ": "BBB-13:45", "LC_ALL": "fr_FR.UTF-8"},
    {"PYTHONHASHSEED": "3", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
)
TIMEOUT_S = 60


class Place(NamedTuple):
    """Where another process finds something."""

    module: str
    file: str | None
    attribute: str = ""


class Question(msgspec.Struct):
    """What another process is asked."""

    application: Place
    action: Place
    record: ActionRecord
    rows: Rows


class Unreachable(Exception):
    """Another process cannot run the action; the message says why."""


def place_of(definition: Definition) -> Place:
    """The module that holds an application. Raises `Unreachable`."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None:  # an interactive session may hold it too, and nobody can import that
            continue
        for attribute, value in list(module.__dict__.items()):
            if value is definition:
                return Place(name, file, attribute)
    raise Unreachable(f"App({definition.name!r}) is not an attribute of a module in a file")


def run_elsewhere(
    definition: Definition, action: Action[Any, Any], record: ActionRecord, rows: Rows
) -> Iterator[tuple[dict[str, str], Told]]:
    """What the run comes to in each of `ENVIRONMENTS`. Raises `Unreachable`."""
    name = action.function.__module__
    home = Place(name, getattr(sys.modules.get(name), "__file__", None))
    question = Question(place_of(definition), home, record, rows)
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "question"
        asked.write_bytes(msgspec.msgpack.encode(question))
        answers = [asked.with_name(str(number)) for number in range(len(ENVIRONMENTS))]
        pairs = list(zip(ENVIRONMENTS, answers, strict=True))
        processes = [_start(environment, asked, answer) for environment, answer in pairs]
        try:
            for process, (environment, answer) in zip(processes, pairs, strict=True):
                _wait(process)
                yield environment, msgspec.msgpack.decode(answer.read_bytes(), type=Told)
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _start(environment: dict[str, str], asked: Path, answer: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as m; m.answer()", str(asked), str(answer)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        _, error = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"it took longer than {TIMEOUT_S} s") from None
    if process.returncode:
        raise Unreachable(error.strip().rpartition("\n")[2] or f"it ended {process.returncode}")


# ---- in the other process ---------------------------------------------------------------


def answer() -> None:
    """Answer the question in the first argument's file into the second's."""
    asked, into = map(Path, sys.argv[1:])
    question = msgspec.msgpack.decode(asked.read_bytes(), type=Question)
    definition = getattr(_imported(question.application), question.application.attribute)
    _imported(question.action)
    record = question.record
    action = definition.actions[record.name, record.version]
    with copied(definition, question.rows) as store, undone(store):
        told = NotingRunner(store).attempt(action, record).told
    into.write_bytes(msgspec.msgpack.encode(told))


def _imported(place: Place) -> ModuleType:
    """A module by its name, or else from its file: a program, or a test of pytest's."""
    if place.module != "__main__":
        try:
            return importlib.import_module(place.module)
        except ModuleNotFoundError as error:
            if place.file is None or not place.module.startswith(str(error.name)):
                raise
    name = "__mp_main__" if place.module == "__main__" else place.module
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, str(place.file))
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{place.module} has no file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
