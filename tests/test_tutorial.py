"""The tutorial's shell commands, one after another, in the terminals that it names.

Their output is compared with what the page shows. A block with a title is a terminal in which a
command goes on running: the lines of later blocks of the same title are waited for, and `^C` ends
it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.test_documents import TUTORIAL, Block, blocks, files, write

pytestmark = pytest.mark.slow

PATIENCE_S = 60
SET_UP = ("python3 -m venv", ". .venv", "pip install")
"""Of the reader's environment; ours is there."""
EXPORT = re.compile(r'^export (?P<name>\w+)="\$\((?P<command>[^)]+)\)"$')


class Terminal:
    """A command that goes on running, and what it printed."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        self._log = folder / f"terminal-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command.split(), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while text not in self.printed:
            assert self._process.poll() is None, self.printed
            assert time.monotonic() < deadline_s, f"{text!r} is not in: {self.printed}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # it prints where each thread is
            self._process.wait(PATIENCE_S)
            code = None
        assert code == 0, f"{code} after Ctrl+C: {self.printed}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Reader:
    """Who types what the page shows, in the order in which it is shown."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminals: dict[str, Terminal] = {}
        tools = Path(sys.executable).parent
        self._environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "80",
            "PYTHONFAULTHANDLER": "1",
        }

    def read(self, block: Block) -> None:
        if block.title is None:
            for command, expected in exchanges(block.text):
                self._type(command, expected)
        else:
            self._watch(block.title, block.text)

    def _type(self, command: str, expected: str) -> None:
        if command.startswith(SET_UP):
            return
        if found := EXPORT.match(command):
            self._environment[found["name"]] = self._run(found["command"]).strip()
            return
        printed = self._run(command)
        assert matches(printed, expected), f"$ {command}\n{printed}"

    def _run(self, command: str) -> str:
        done = subprocess.run(
            command.split(), cwd=self._folder, env=self._environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _watch(self, title: str, text: str) -> None:
        for line in text.splitlines():
            if line.startswith("$ "):
                terminal = Terminal(line[2:], self._folder, self._environment)
                self._terminals[title] = terminal
                if line.startswith("$ synchrotron dev"):
                    terminal.wait_for("Uvicorn running")
            elif line == "^C":
                self._terminals.pop(title).interrupt()
            else:
                self._terminals[title].wait_for(line)

    def close(self) -> None:
        for terminal in self._terminals.values():
            terminal.kill()


def exchanges(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a block, and the lines that follow it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def matches(printed: str, expected: str) -> bool:
    """Whether it was printed so; `...` stands for anything, and spaces at the end for nothing."""
    pattern = ".*".join(map(re.escape, stripped(expected).split("...")))
    return re.fullmatch(pattern, stripped(printed)) is not None


def stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    write(files(TUTORIAL.read_text(encoding="utf-8")), tmp_path)
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are those of a Unix shell")
def test_the_tutorial_goes_as_it_says(reader: Reader) -> None:
    commands = [
        block
        for block in blocks(TUTORIAL.read_text(encoding="utf-8"))
        if block.language == "console"
    ]
    assert len(commands) > 10
    for block in commands:
        reader.read(block)


def test_other_output_than_the_page_shows_is_noticed() -> None:
    assert matches("[ ] Buy milk  \n", "[ ] Buy milk\n")
    assert matches("..  [100%]\n2 passed in 0.1s\n", "..  [100%]\n2 passed in ...\n")
    assert not matches("[x] Buy milk  bob\n", "[ ] Buy milk\n")
    assert not matches("sent 1\nmore\n", "sent 1\n")
    assert list(exchanges("$ a b\nc\nd\n$ e\n")) == [("a b", "c\nd\n"), ("e", "")]
