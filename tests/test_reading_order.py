"""The code can be read from front to back: a file imports only what comes before it.

The order of the packages is the one below; each package's docstring gives the order of
its modules (`In reading order: ...`), and the package itself comes after them. Imports
for type checkers and inside functions count: the reader follows them as well.
"""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ARCHITECTURE = Path(__file__).parent.parent / "ARCHITECTURE.md"
PACKAGES = (
    "errors",
    "core",
    "app",
    "store",
    "replica",
    "wire",
    "client",
    "application",
    "__init__",
    "ext",
    "elsewhere",
    "inspection",
    "server",
    "testing",
    "cli",
    "__main__",
)
"""`__init__` is what an application imports; after it comes what only tests and people need."""


def installed() -> Path:
    """The folder of the package under test: the source's or the wheel's."""
    spec = importlib.util.find_spec("synchrotron")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


# ---- the order, as declared ----------------------------------------------------------


def reading_order(root: Path, packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """All declared modules by their dotted names, in order."""
    order: list[str] = []
    for name in packages:
        if name == "__init__":
            order.append(root.name)
            continue
        order += in_package(root / name, f"{root.name}.{name}")
    return order


def in_package(path: Path, name: str) -> list[str]:
    """The modules of a package in order, those of its own packages in their place; then it."""
    order: list[str] = []
    if (path / "__init__.py").exists():
        for module in declared(path):
            order += in_package(path / module, f"{name}.{module}")
    return [*order, name]


def declared(package: Path) -> list[str]:
    """The modules that a package's docstring puts in order."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    sentence = re.search(r"In reading order: ([^.]*)\.", docstring)
    return re.findall(r"`(\w+)`", sentence[1]) if sentence else []


def modules(root: Path) -> dict[str, Path]:
    """Every module that is there, by its dotted name."""
    paths = {path.relative_to(root.parent).with_suffix(""): path for path in root.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in paths.items()}


# ---- the imports, as written ---------------------------------------------------------


def imports(name: str, path: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of each import of one of our own modules."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            origin = importlib.util.resolve_name(module, package)
            # `from package import module` imports the module, anything else the package.
            named = [f"{origin}.{alias.name}" for alias in node.names]
            targets = [target if target in known else origin for target in named]
        else:
            continue
        ours = name.partition(".")[0]
        for target in dict.fromkeys(targets):
            if target.partition(".")[0] == ours:
                yield node.lineno, target


def breaches(root: Path, packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """What is against the reading order, a sentence each."""
    order, present = reading_order(root, packages), modules(root)
    found = [
        f"{name} is not in the reading order: put it into its package's docstring or PACKAGES"
        for name in sorted(present.keys() - set(order))
    ]
    absent = [name for name in order if name not in present]
    found += [f"{name} is in the reading order, but absent" for name in absent]
    for place, name in enumerate(order):
        if name in present:
            found += [
                f"{name}, line {line}, imports {target}, which does not come before it"
                for line, target in imports(name, present[name], set(present))
                if target not in order[:place]
            ]
    return found


def test_a_file_imports_only_what_comes_before_it_in_the_reading_order() -> None:
    assert breaches(installed()) == []


def in_this_order(names: list[str], text: str) -> list[str]:
    """The names that do not follow, in backticks, on the ones before them."""
    words = iter(re.findall(r"`(\w+)`", text))
    return [name for name in names if name not in words]


def test_the_architecture_names_every_module_in_the_reading_order() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    section = text.partition("## Reading order")[2].partition("\n## ")[0]
    order = [name.rpartition(".")[2] for name in reading_order(installed())]
    # A package stands before its modules there.
    packages = {path.parent.name for path in installed().rglob("__init__.py")}
    assert in_this_order([n for n in order if n not in packages | {"__main__"}], section) == []
    assert in_this_order(["a", "c", "b"], "`a`, `b` and `c`") == ["b"]


def test_imports_against_the_order_and_modules_outside_it_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "book"
    for path, text in {
        "errors.py": "",
        "core/__init__.py": '"""Ideas.\n\nIn reading order: `first`,\n`second`, `lost`.\n"""',
        "core/first.py": "from book.core.second import x\nimport book.app.use",
        "core/second.py": "from . import first\nfrom ..errors import E\nimport os",
        "core/stray.py": "",
        "app/__init__.py": '"""Uses.\n\nIn reading order: `use`."""',
        "app/use.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from book import Book\n"
            "def late():\n    from book.core import first, nothing\n    import book.gone"
        ),
        "__init__.py": "from book.app.use import late",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    assert breaches(root, ("errors", "core", "app", "__init__")) == [
        "book.core.stray is not in the reading order: put it into its package's docstring"
        " or PACKAGES",
        "book.core.lost is in the reading order, but absent",
        "book.core.first, line 1, imports book.core.second, which does not come before it",
        "book.core.first, line 2, imports book.app.use, which does not come before it",
        "book.app.use, line 3, imports book, which does not come before it",
        "book.app.use, line 6, imports book.gone, which does not come before it",
    ]


# ---- what the algorithm needs to run --------------------------------------------------

SURVEY = """
import json, sys, threading

ALLOWED = sys.stdlib_module_names | {"synchrotron", "apsw", "msgspec", "planted"}
FORBIDDEN = {"asyncio", "concurrent.futures", "multiprocessing", "selectors", "socket", "ssl"}
before = set(sys.modules)
started = []

class OnlyWhatABrowserHas:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            why = f"{name} is neither apsw, msgspec nor Python's own"
            raise ModuleNotFoundError(why, name=name)

sys.meta_path.insert(0, OnlyWhatABrowserHas)
threading.Thread.start = lambda thread: started.append(thread.name)
sys.path.insert(0, sys.argv[1])
exec(sys.argv[2])
imported = FORBIDDEN & (set(sys.modules) - before)
print(json.dumps({"imported": sorted(imported), "started": started}))
"""
CLEAN = {"imported": [], "started": []}


def survey(code: str, path: Path) -> dict[str, list[str]]:
    """Run code in a fresh interpreter without other packages; what it imported and started."""
    done = subprocess.run(
        [sys.executable, "-c", SURVEY, str(path), code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, list[str]] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("package", ["core", "app", "store", "replica"])
def test_the_algorithm_imports_no_network_no_async_and_no_other_package(
    package: str, tmp_path: Path
) -> None:
    every = [m for m in sorted(modules(installed())) if m.startswith(f"synchrotron.{package}")]
    assert every
    assert survey(f"import {', '.join(every)}", tmp_path) == CLEAN


RUN_A_REPLICA = """
from synchrotron import App, Context

app = App("notes", schema='''
    CREATE TABLE note (
        id TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('user:alice') STORED
    )
''')

@app.action
def write(ctx: Context, *, text: str) -> str:
    note = ctx.new_id("note")
    ctx.execute("INSERT INTO note (id, text) VALUES (?, ?)", (note, text))
    return note

with app.open(":memory:", user="alice") as replica:
    run = replica.run(write, text="Buy milk")
    assert [row["id"] for row in replica.query("SELECT id FROM note")] == [run.result]
    assert replica.outcome(run.id).state == "pending"
"""


def test_a_replica_runs_without_network_threads_and_other_packages(tmp_path: Path) -> None:
    assert survey(RUN_A_REPLICA, tmp_path) == CLEAN


def test_the_survey_sees_network_modules_threads_and_other_packages(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import asyncio, threading\nthreading.Thread(name='planted').start()")
    report = survey("import planted", tmp_path)
    assert "asyncio" in report["imported"]
    assert "socket" in report["imported"]
    assert report["started"] == ["planted"]

    planted.write_text("import hypothesis")
    with pytest.raises(AssertionError, match=r"hypothesis is neither apsw, msgspec"):
        survey("import planted", tmp_path)
