"""What README.md shows runs as it stands."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
QUICKSTART_LINES_MAX = 25


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_blocks(text: str) -> None:
    """Run all blocks, one after another, as one program."""
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(python_blocks(text), 1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)


def broken_links(text: str, folder: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target and not (folder / target).exists():
            yield target


def test_every_python_example_of_the_readme_runs() -> None:
    run_blocks(README.read_text(encoding="utf-8"))


def test_an_example_that_is_wrong_is_reported() -> None:
    wrong = "Text.\n```python\nx = 1\n```\nMore.\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError):
        run_blocks(wrong)


def test_the_quickstart_is_short_enough_to_be_read_at_once() -> None:
    quickstart, *_ = python_blocks(README.read_text(encoding="utf-8"))
    assert len(quickstart.splitlines()) <= QUICKSTART_LINES_MAX


def test_the_links_of_the_readme_lead_somewhere() -> None:
    assert list(broken_links(README.read_text(encoding="utf-8"), README.parent)) == []


def test_a_link_to_nowhere_is_reported(tmp_path: Path) -> None:
    (tmp_path / "HERE.md").touch()
    text = "[a](HERE.md) [b](HERE.md#part) [c](https://example.org/x) [d](GONE.md)"
    assert list(broken_links(text, tmp_path)) == ["GONE.md"]
