"""The plots of the HTML report, as SVG whose text is text and whose colours are those of the page.

matplotlib draws; the page's style sheet names the colours, so that they follow light and dark. Before and after differ
in form as well as in colour (blue and orange, after Okabe and Ito, which colour-blind people tell apart).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxopt.report.numbers import Content, duration, percent, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, LINE, BEFORE, AFTER, GAIN, LOSS = (f"#0{digit}0{digit}0{digit}" for digit in range(1, 8))
"""Stand for the colours of the page while matplotlib draws."""
COLOURS = dict(zip((INK, FAINT, LINE, BEFORE, AFTER, GAIN, LOSS),
                   ("ink", "faint", "line", "before", "after", "gain", "loss"), strict=True))  # fmt: skip
WIDTH, DOTS = 5.2, 72
"""Inches and points of a plot: 374 pixels, so that its text keeps its size on a phone."""
TEXT = 11
STAIRS = 8
"""Stairs that are drawn; those that change least are drawn as one."""
SMALL = 0.002
"""Of the whole: what is drawn as one with its neighbours."""
NAME = 30
"""Characters of the name of a stair."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxopt",
    "text.parse_math": False,
    "font.size": TEXT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        svg: to stand in the page as it is; names of a model in it are escaped.
        words: the same for those who do not see it.
    """

    svg: str
    words: str


def latencies(content: Content) -> Plot | None:
    """How the times of a run lie, before and after; None where they were not measured."""
    if not content["latency"]:
        return None
    found = content["latency"]["histogram"]
    unit, name = (1e3, "ms") if found["edges"][-1] >= 1e-3 else (1e6, "µs")
    edges = [unit * edge for edge in found["edges"]]

    def draw(axes: Axes) -> None:
        axes.stairs(found["before"], edges, color=BEFORE, linewidth=1.6, linestyle=(0, (4, 1.5)))
        axes.stairs(found["after"], edges, color=AFTER, linewidth=1.2, fill=True, alpha=0.85)
        for end, colour, style in (("before", BEFORE, "- -"), ("after", AFTER, "■")):
            middle = content["latency"][end]["p50"]["value"]
            top = max(found[end])
            at = unit * middle
            side = "right" if at > (edges[0] + edges[-1]) / 2 else "left"
            axes.annotate(f"{style} {end}: {duration(middle)}", (at, top), (0, 5), textcoords="offset points",
                          color=colour, ha=side, va="bottom")  # fmt: skip
        axes.set_yticks([])
        axes.set_xlabel(f"time of a run, {name}; the slowest 1 % at the right end")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1.25 * max(*found["before"], *found["after"], 1e-9))

    before, after = (content["latency"][end] for end in ("before", "after"))
    words = (
        f"Distribution of the times of a run. Before: half below {duration(before['p50']['value'])}, "
        f"99 of 100 below {duration(before['p99']['value'])}. After: half below {duration(after['p50']['value'])}, "
        f"99 of 100 below {duration(after['p99']['value'])}."
    )
    return Plot(_svg(draw, 2.5, "latency"), words)


def stairs(content: Content, unit: str) -> Plot | None:
    """The way from the original to the result in ``bytes`` or ``seconds``; None where there is none."""
    found = content["stairs"][unit]
    if not found:
        return None
    form = size if unit == "bytes" else duration
    steps = _fewest(found)
    start, end = found[0]["from"], found[-1]["to"]
    rows = [("original", 0.0, start), *((s["name"], s["from"], s["to"]) for s in steps), ("result", 0.0, end)]
    most = max(max(low, high) for _, low, high in rows) or 1.0

    def draw(axes: Axes) -> None:
        for place, (name, low, high) in enumerate(rows):
            whole = name in ("original", "result") and place in (0, len(rows) - 1)
            colour = INK if whole else GAIN if high <= low else LOSS
            axes.barh(place, max(abs(high - low), most * 0.003), left=min(low, high), height=0.32, color=colour)
            told = form(high) if whole else f"{'−' if high <= low else '+'}{form(abs(high - low))}"
            axes.text(0, place - 0.24, _short(name), ha="left", va="bottom")
            axes.text(1.0, place - 0.24, told, ha="right", va="bottom", transform=axes.get_yaxis_transform())
            if place + 1 < len(rows):
                axes.plot([high, high], [place + 0.16, place + 0.84], color=LINE, linewidth=0.8)
        axes.set_ylim(len(rows) - 0.7, -0.75)
        axes.set_xlim(0, most)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)

    told = "; ".join(f"{_short(s['name'])} from {form(s['from'])} to {form(s['to'])}" for s in steps)
    words = f"From {form(start)} to {form(end)}" + (f", {percent(end / start)} of it: {told}." if start else ".")
    return Plot(_svg(draw, 0.52 * len(rows) + 0.15, unit), words)


def _fewest(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stairs that change most, in their order; neighbours among the others as one."""
    least = SMALL * max(max(stair["from"], stair["to"]) for stair in found)
    changed = sorted(found, key=lambda stair: -abs(stair["to"] - stair["from"]))[:STAIRS]
    names = {id(stair) for stair in changed if abs(stair["to"] - stair["from"]) > least}
    kept: list[dict[str, Any]] = []
    for stair in found:
        if id(stair) in names:
            kept.append(stair)
        elif stair["to"] != stair["from"]:
            if kept and kept[-1].get("many"):
                kept[-1] = {**kept[-1], "to": stair["to"]}
            else:
                kept.append({**stair, "name": "smaller steps", "many": True})
    return kept


def _short(name: str) -> str:
    """What fits beside a number, without what SVG cannot hold."""
    words = "".join(c if c.isprintable() else " " for c in name)
    return words if len(words) <= NAME else f"{words[: NAME - 1]}…"


def _svg(draw: Callable[[Axes], None], height: float, name: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that matplotlib's own font lacks; the page's font is another
        figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.01, 0.02 if name != "latency" else 0.2, 0.98, 0.96 if name != "latency" else 0.78))
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _for_page(stream.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The drawing alone, in the colours and the font of the page; its ids are its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([-\d. ]+)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1]}" aria-hidden="true" focusable="false">', svg, count=1)
    return re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), re.sub(r"\n\s*", "\n", svg))


def _tag(tag: str, name: str) -> str:
    """One tag; what stands between tags (names of a model) is left as it is."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", tag)
    tag = re.sub(r"font(-size)?: ([\d.]+px)[^;\"]*", r"font-size: \2", tag)
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    for colour, variable in COLOURS.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag
