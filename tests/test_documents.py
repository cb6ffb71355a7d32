"""What README.md and the pages of docs/ show runs as it stands.

A page is one program, its Python blocks one after another. A block with a title is a file beside
it, which later blocks may import; so is every titled block of the tutorial, on every page. Blocks
of a Python session (`pycon`) say what they print, and are compared. Files named test_….py are run
by pytest, as a reader would, in a process of their own.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
PROGRAM = "page"
QUICKSTART_LINES_MAX = 25
PAUSE_S = 0.002
"""Nobody types two lines within a millisecond, which clocks could not tell apart."""
SESSION_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    language: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(found["language"], found["title"], textwrap.dedent(found["text"]))
        for found in _FENCE.finditer(page)
    ]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, in order. A later block of the same title goes on with it."""
    found: dict[str, str] = {}
    for block in blocks(page):
        if block.title is not None:
            before = found.get(block.title)
            found[block.title] = block.text if before is None else f"{before}\n\n{block.text}"
    return found


def run_page(page: str, name: str, folder: Path) -> None:
    """Run a page in a folder, which is the current one and where Python looks for modules."""
    written = files(page)
    write(written, folder)
    sys.modules[PROGRAM] = program = ModuleType(PROGRAM)  # dataclasses look for their module
    names = vars(program)
    for number, block in enumerate(blocks(page), 1):
        where = f"{name}, block {number}"
        if block.language == "pycon":
            run_session(block.text, names, where)
        elif block.language == "python" and block.title is None:
            run_lines(block.text, names, where)
        elif block.language == "python" and not is_test(block.title):
            importlib.import_module(Path(str(block.title)).stem)
    if tests := [file for file in written if is_test(file)]:
        run_tests(folder, tests)


def write(written: dict[str, str], folder: Path) -> None:
    for file, text in written.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")


def is_test(file: str | None) -> bool:
    return Path(file or "").name.startswith(("test_", "conftest"))


def run_lines(text: str, names: dict[str, Any], where: str) -> None:
    for statement in ast.parse(text, where).body:
        time.sleep(PAUSE_S)
        exec(compile(ast.Module([statement], []), where, "exec"), names)


class Session(doctest.DocTestRunner):
    def report_start(self, *args: Any) -> None:
        time.sleep(PAUSE_S)


def run_session(text: str, names: dict[str, Any], where: str) -> None:
    session = doctest.DocTestParser().get_doctest(text, names, where, where, 0)
    told: list[str] = []
    runner = Session(optionflags=SESSION_OPTIONS, verbose=False)
    runner.run(session, out=told.append, clear_globs=False)
    names.update(session.globs)
    assert not told, "".join(told)


def run_tests(folder: Path, tests: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for one page. The modules that it imports from there are forgotten at the end."""
    tutorial = files(TUTORIAL.read_text(encoding="utf-8"))
    write(tutorial, tmp_path)
    for file in tutorial:  # others may have been imported by such a name
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("SYNCHROTRON_STRICT", raising=False)
    yield tmp_path
    sys.modules.pop(PROGRAM, None)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def broken_links(text: str, folder: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target and not (folder / target).exists():
            yield target


def with_programs() -> list[Path]:
    programs = {"python", "pycon"}
    return [
        page
        for page in PAGES
        if programs & {block.language for block in blocks(page.read_text(encoding="utf-8"))}
    ]


@pytest.mark.parametrize("page", with_programs(), ids=lambda page: page.stem)
def test_every_python_example_of_a_page_runs(page: Path, folder: Path) -> None:
    run_page(page.read_text(encoding="utf-8"), page.name, folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page.read_text(encoding="utf-8"), page.parent)) == []


def test_the_quickstart_is_short_enough_to_be_read_at_once() -> None:
    quickstart, *_ = (b for b in blocks(README.read_text(encoding="utf-8")) if b[0] == "python")
    assert len(quickstart.text.splitlines()) <= QUICKSTART_LINES_MAX


# ---- that what is wrong is seen ----------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "Text.\n```python\nx = 1\n```\nMore.\n```python\nassert x == 2\n```\n",
        '```python title="given.py"\nx = 1\n```\n```python\nfrom given import y\n```\n',
        '```python title="given.py"\nx = unknown\n```\n',
        '=== "A tab"\n\n    ```python\n    assert False\n    ```\n',
        "```python\nx = 1\n```\n```pycon\n>>> x\n2\n```\n",
        "```pycon\n>>> 1 / 0\n0\n```\n",
        '```python title="test_given.py"\ndef test_it() -> None:\n    assert False\n```\n',
    ],
    ids=["block", "import", "file", "indented", "session", "error", "test"],
)
def test_an_example_that_is_wrong_is_reported(wrong: str, folder: Path) -> None:
    with pytest.raises((AssertionError, ImportError, NameError)):
        run_page(wrong, "wrong", folder)


def test_a_page_imports_the_tutorials_files_whatever_was_imported_before(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    other = ModuleType("todo")
    monkeypatch.setitem(sys.modules, "todo", other)
    folder: Path = request.getfixturevalue("folder")
    run_page("```python\nfrom todo import create_todo\n```\n", "page", folder)


def test_an_example_that_is_right_passes(folder: Path) -> None:
    right = (
        '```toml title="kept.toml"\nx = 1\n```\n'
        '```python title="given.py"\nx = 1\n```\n'
        '```python title="given.py"\ny = x + 1\n```\n'
        "```python\nfrom given import y\n```\n"
        "```pycon\n>>> from pathlib import Path\n>>> y, Path('kept.toml').read_text()\n"
        "(2, 'x = 1\\n')\n>>> z = y\n```\n"
        "```python\nassert z == 2\n```\n"
    )
    run_page(right, "right", folder)


def test_a_link_to_nowhere_is_reported(tmp_path: Path) -> None:
    (tmp_path / "HERE.md").touch()
    text = "[a](HERE.md) [b](HERE.md#part) [c](https://example.org/x) [d](GONE.md)"
    assert list(broken_links(text, tmp_path)) == ["GONE.md"]
