"""SPEC.md numbers what must be true, and each number is named by a test that holds it.

In SPEC.md an invariant opens a list item: `- S7. ...`. A test names what it holds with
`@pytest.mark.spec("S7")`, or with the same mark on a parameter or in `pytestmark`.
"""

import ast
import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
SPEC = TESTS.parent / "SPEC.md"


def numbers(spec: str) -> list[str]:
    """The numbers of the invariants, as they stand."""
    return re.findall(r"^- ([A-Z]\d+[a-z]?)\.", spec, flags=re.MULTILINE)


def named(tests: Path) -> dict[str, str]:
    """Each number that a test names, and one file that names it."""
    return {
        argument.value: path.name
        for path in sorted(tests.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


def gaps(spec: str, tests: Path) -> list[str]:
    """Where specification and tests part, a sentence each."""
    counted, held = Counter(numbers(spec)), named(tests)
    found = [f"{n} stands in SPEC.md {times} times" for n, times in counted.items() if times > 1]
    found += [f"{n} is held by no test" for n in counted if n not in held]
    found += [
        f"{n}, named in {file}, is not in SPEC.md" for n, file in held.items() if n not in counted
    ]
    return found


def test_every_invariant_is_held_by_a_test_and_tests_name_only_invariants() -> None:
    spec = SPEC.read_text(encoding="utf-8")
    assert numbers(spec), "SPEC.md numbers no invariant"
    assert gaps(spec, TESTS) == []


def test_an_invariant_without_a_test_and_a_name_without_invariant_are_reported(
    tmp_path: Path,
) -> None:
    spec = "- S1. One.\n- S1a. Two,\n  and S9.\n- S2. Three.\n- H1. Four.\n- H1. Again.\n"
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "test_part.py").write_text(
        "import pytest\n"
        "@pytest.mark.spec('S1', 'H1')\n"
        "def test_one(): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.spec('S9'))])\n"
        "def test_two(x): ...\n"
        "# pytest.mark.spec('S2')\n"
    )
    (tmp_path / "helper.py").write_text("pytest.mark.spec('S1a')")

    assert gaps(spec, tmp_path) == [
        "H1 stands in SPEC.md 2 times",
        "S1a is held by no test",
        "S2 is held by no test",
        "S9, named in test_part.py, is not in SPEC.md",
    ]
