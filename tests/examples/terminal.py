"""A program in a terminal of its own: its screen as a person would see it, and its keys."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from types import TracebackType

import pyte

LINES, COLUMNS = 30, 100


class Terminal:
    """A pseudo-terminal, and what a terminal would show of what a program writes to it."""

    def __init__(self, *command: str, cwd: Path, **environment: str) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._terminal, inside = pty.openpty()
        ioctl(inside, TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            start_new_session=True,
        )
        os.close(inside)

    @property
    def text(self) -> str:
        """The screen as it is by now."""
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                self._stream.feed(os.read(self._terminal, 65536))
            except OSError:  # it has ended
                break
        return "\n".join(line.rstrip() for line in self._screen.display)

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, *words: str, within_s: float = 60) -> str:
        """Wait until all of these are on the screen, which is given."""
        deadline_s = time.monotonic() + within_s
        while not all(word in self.text for word in words):
            assert self._process.poll() is None, f"it has ended:\n{self.text}"
            assert time.monotonic() < deadline_s, f"{words} are not all on\n{self.text}"
            time.sleep(0.02)
        return self.text

    def ends(self, within_s: float = 30) -> int:
        """Wait for the end of the program; its exit code."""
        deadline_s = time.monotonic() + within_s
        while self._process.poll() is None:
            _ = self.text  # what nobody reads keeps it from ending
            assert time.monotonic() < deadline_s, f"it does not end:\n{self.text}"
            time.sleep(0.02)
        return self._process.returncode

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)
