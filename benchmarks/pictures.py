"""Draw what the benchmarks found about growth: `docs/images/growth-*.svg`.

`make bench ARGS="history rows crowd members streams"` measures, `make pictures` draws; for
matplotlib, which nothing else needs, see the extra `bench`. Both axes are logarithmic, so that
what is flat is independent, and what rises as the dotted line does grows in proportion.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.measuring import RESULTS

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PAPER, EDGE, INK, SOFT, GRID = "#ffffff", "#9aa5ad", "#1f2a30", "#5a6a72", "#e4e9ec"
LINES = ("#00796b", "#3f51b5", "#b26a00", "#ad1457", "#546e7a")
DARK = {
    PAPER: "#22282d", EDGE: "#5f6b73", INK: "#eef2f4", SOFT: "#a9b6bd", GRID: "#353d43",
    **dict(zip(LINES, ("#4db6a5", "#9fa8da", "#ffb74d", "#f48fb1", "#b0bec5"), strict=True)),
}  # fmt: skip
"""What each colour becomes where the reader prefers a dark page."""
STYLE = {
    "svg.fonttype": "none",  # the reader's own font, as in the other pictures
    "svg.hashsalt": "growth",  # the same picture of the same figures
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "figure.edgecolor": EDGE,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": GRID,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
PADS = {"w_pad": 0.14, "h_pad": 0.1, "wspace": 0.06}
"""Inches, and a part of the width."""


class Line(NamedTuple):
    label: str
    points: list[tuple[float, float]]


class Panel(NamedTuple):
    title: str
    across: str
    lines: list[Line]


class Picture(NamedTuple):
    name: str
    title: str
    panels: tuple[Panel, ...]


# ---- what was found ----------------------------------------------------------------------


def found(name: str) -> list[dict[str, Any]]:
    """The rows of a table of the benchmarks'."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())
    return rows


def line(label: str, rows: Iterable[dict[str, Any]], across: str, *up: str) -> Line:
    """One column, or the sum of several, by another one."""
    return Line(label, [(row[across], sum(row[column] for column in up)) for row in rows])


def by(name: str, first: str, across: str, *up: str) -> list[Line]:
    """A line for each thing that is named in the first column."""
    rows = found(name)
    things = dict.fromkeys(row[first] for row in rows)
    return [line(t, (row for row in rows if row[first] == t), across, *up) for t in things]


def pictures() -> Iterator[Picture]:
    patches, rows, work = found("history-row"), found("rows"), found("rows-work")
    members = found("members")
    yield Picture(
        "growth-history",
        "Cost against history",
        (
            Panel(
                "One work behind a history, ms",
                "actions in the history",
                by("history", "work", "actions", "ms"),
            ),
            Panel(
                "A late action on one row, ms",
                "patches of that row that come after it",
                [
                    line("comes before them", patches, "patches after it", "late ms"),
                    line("comes last", patches, "patches after it", "last ms"),
                ],
            ),
        ),
    )
    yield Picture(
        "growth-rows",
        "Cost against rows",
        (
            Panel("A new replica, s", "rows", [line("snapshot", rows, "rows", "s")]),
            Panel(
                "One work on a replica, µs",
                "rows in it",
                [
                    line("run of an insert", work, "rows", "run us"),
                    line("query by key", work, "rows", "query by key us"),
                    line("sync without news", work, "rows", "sync without news us"),
                ],
            ),
        ),
    )
    yield Picture(
        "growth-replicas",
        "Cost against replicas at work at once",
        (
            Panel("Done in a second, by all", "replicas", by("crowd", "work", "replicas", "per s")),
            Panel("Median wait, ms", "replicas", by("crowd", "work", "replicas", "median ms")),
        ),
    )
    yield Picture(
        "growth-listeners",
        "Cost against open event streams and memberships",
        (
            Panel(
                "A commit: processor time, ms",
                "open event streams",
                by("streams-commits", "commit", "streams", "server ms", "postgres ms"),
            ),
            Panel(
                "One exchange, ms",
                "memberships in the database",
                [
                    line(label, members, "memberships", f"{label}, ms")
                    for label in ("adding a member", "adding a todo", "without news")
                ],
            ),
        ),
    )


# ---- drawing -----------------------------------------------------------------------------


def draw(picture: Picture) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.7), linewidth=1, layout=ConstrainedLayoutEngine(**PADS))
        for axes, panel in zip(
            figure.subplots(1, len(picture.panels)), picture.panels, strict=True
        ):
            draw_panel(axes, panel)
        written = StringIO()
        figure.savefig(written, format="svg", edgecolor=EDGE, metadata={"Date": None})
    return for_both_schemes(written.getvalue(), picture.title)


def draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.across)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, linewidth=0.7)
    axes.set_axisbelow(True)
    across, up = zip(*(point for line in panel.lines for point in line.points), strict=True)
    axes.set_xticks(sorted(set(across)))
    axes.set_ylim(10 ** math.floor(math.log10(min(up))), 10 ** math.ceil(math.log10(max(up))))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)
    for (label, points), colour in zip(panel.lines, LINES, strict=False):
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=label, clip_on=False)
    draw_proportion(axes, across, up)
    columns = 2 if len(panel.lines) > 3 else 1
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, ncols=columns, fontsize=8.5
    )


def draw_proportion(axes: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    """What twice as much for twice as many looks like."""
    high, top = max(across), max(up)
    begin = max(min(across), high * min(up) / top)
    axes.plot([begin, high], [top * begin / high, top], ":", color=SOFT, linewidth=1)


def for_both_schemes(svg: str, title: str) -> str:
    """With a title, and the colours of a dark page where the reader has one."""
    rules = "\n".join(
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important; }}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    head = (
        f"<title>{escape(title)}</title>\n"
        f"<style>@media (prefers-color-scheme: dark) {{\n{rules}\n}}</style>\n"
    )
    before, start, after = svg.partition(" <defs>")
    return before + head + start + after


def main() -> None:
    for picture in pictures():
        path = IMAGES / f"{picture.name}.svg"
        path.write_text(draw(picture))
        print(path)


if __name__ == "__main__":
    main()
