"""What an application writes is checked by mypy and pyright, wrong uses as well.

A line of the checked files ends in `# error` where a checker must complain, and in
`# reveals T` where it must infer T. Findings and marks must agree in both directions.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("right_uses.py", "wrong_uses.py")

Finding = tuple[str, int, str]
"""File, line, and `error` or `reveals T`."""


def marks() -> set[Finding]:
    return {
        (file, number, mark[1])
        for file in FILES
        for number, line in enumerate((HERE / file).read_text().splitlines(), start=1)
        if (mark := re.search(r"# (error|reveals .+)$", line))
    }


def run(checker: str, *options: str) -> str:
    """What a checker prints about the files, whatever it thinks of them."""
    # From the folder of the test run, so that a relative PYTHONPATH still leads to the package.
    command = [sys.executable, "-m", checker, *options, *(str(HERE / file) for file in FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(cache: Path) -> Iterator[Finding]:
    # Our own configuration leaves the wrong uses out, so it is not read here.
    printed = run("mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "--output=json")
    for entry in map(json.loads, printed.splitlines()):
        yield from finding(entry["file"], entry["line"], entry["severity"], entry["message"])


def pyright(_: Path) -> Iterator[Finding]:
    printed = run("pyright", "--outputjson", f"--pythonpath={sys.executable}")
    for entry in json.loads(printed)["generalDiagnostics"]:
        line = entry["range"]["start"]["line"] + 1
        yield from finding(entry["file"], line, entry["severity"], entry["message"])


def finding(path: str, line: int, severity: str, message: str) -> Iterator[Finding]:
    if severity == "error":
        yield Path(path).name, line, "error"
    elif revealed := re.fullmatch(r'(?:Revealed type|Type of ".*") is "(.*)"', message):
        yield Path(path).name, line, "reveals " + re.sub(r"\b\w+\.", "", revealed[1])


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_wrong_uses_are_errors_and_right_ones_have_the_type_that_they_return(
    checker: Callable[[Path], Iterator[Finding]], tmp_path: Path
) -> None:
    assert set(checker(tmp_path)) == marks()
