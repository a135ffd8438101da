"""The page: self-contained, escaped, and with the numbers of the JSON form."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from onnxopt.report import Details, Report, plots
from onnxopt.report.html import html

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
WORDS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--dump-dom", "--virtual-time-budget=5000",
)  # fmt: skip
POINTS = {"/accuracy/drop", "/accuracy/low", "/accuracy/high"}
"""Shown as points in the verdict, and as scores in the table."""


VOID = {"meta", "wbr", "br", "img", "link"}
"""Elements without an end."""


class Page(HTMLParser):
    """A page as a test needs it.

    Attributes:
    fields: pointer to what is shown, and value, of each number.
    scripts: attributes and contents of each script element.
    tags: each start tag with its attributes.
    rows: first cells of the rows of the layer table.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: list[tuple[str, Any, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._table = False
        self.feed(text)

    @property
    def content(self) -> Any:
        (found,) = [words for attributes, words in self.scripts if attributes.get("type") == "application/json"]
        return json.loads(found)

    @property
    def root(self) -> dict[str, str | None]:
        return next(attributes for tag, attributes in self.tags if tag == "html")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append((tag, attributes))
        if tag == "script":
            self.scripts.append((attributes, ""))
        if tag == "table":
            self._table = attributes.get("id") == "layer-table"
        if tag == "th" and self._table and attributes.get("scope") == "row":
            self.rows.append("")
        if "data-field" in attributes:
            self.fields.append((attributes["data-field"] or "", json.loads(attributes["data-value"] or ""), ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if tag == "th" and self._table and attributes.get("scope") == "row":
            self.rows[-1] += data
        if "data-field" in attributes:
            field, value, text = self.fields[-1]
            self.fields[-1] = (field, value, text + data)


def at(content: Any, pointer: str) -> Any:
    """What a JSON pointer points to."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        content = None if content is None else content[int(key)] if isinstance(content, list) else content[key]
    return content


UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "s": 1, "ms": 1e-3, "µs": 1e-6, "%": 0.01, "dB": 1, "": 1}


def read(shown: str) -> float:
    """The number that a person reads."""
    number, _, unit = shown.replace("−", "-").replace(",", "").partition(" ")
    return float(number) * UNITS[unit]


@pytest.fixture
def page(report: Report) -> Page:
    return Page(html(report.to_dict()))


def assert_shows_its_json(page: Page) -> None:
    """Every number is what the JSON says, and what a person reads is that number."""
    assert len(page.fields) > 60
    for field, value, shown in page.fields:
        assert at(page.content, field) == value, field
        if value is None:
            assert shown == "–", field
        elif field in POINTS:
            assert abs(read(shown)) in (
                pytest.approx(abs(value), abs=5e-5),
                pytest.approx(100 * abs(value), abs=0.051),
            ), field
        else:
            assert read(shown) == pytest.approx(value, rel=6e-3, abs=6e-3), field


def test_every_number_shown_is_that_of_the_json(page: Page, report: Report) -> None:
    assert page.content == json.loads(json.dumps(report.to_dict()))
    assert_shows_its_json(page)
    shown = {field: words for field, _, words in page.fields}
    assert shown["/after/bytes"] == "1.36 MB"
    assert shown["/speed/ratio"] == "2.63"
    assert shown["/memory/after/resident/median"] == "19.2 MB"
    assert shown["/layers/rows/1/seconds"] == "600 µs"
    assert shown["/ledger/quantize-int8/file"] == "3.60 MB"


def test_names_of_a_model_stay_text(page: Page, evil: str) -> None:
    assert len(page.scripts) == 2
    assert not {"img", "iframe", "link", "object", "form"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.rows == ["conv", evil, "gone"]  # the slowest first


def test_nothing_is_fetched_and_only_our_script_may_run(page: Page) -> None:
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "xlink:href", "action") if name in a]
    assert all(str(address).startswith("#") for address in addresses)
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = [words for attributes, words in page.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert str(policy).startswith(f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}';")


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert html(report.to_dict()) == html(report.to_dict())


def test_what_was_not_measured_is_left_out(report: Report) -> None:
    bare = dataclasses.replace(report, drop=None, speed=None, details=Details(), steps=(), ended="interrupted")
    text = html(bare.to_dict())
    assert "Layer by layer" not in text
    assert "How long a run takes" not in text
    assert "Speed not measured" in text
    assert "the run was interrupted" in text


def test_sensitivity_is_a_column_only_where_it_was_measured(report: Report) -> None:
    assert ">sensitivity<" in html(report.to_dict())
    assert report.details.layers is not None
    rows = tuple(dataclasses.replace(row, sqnr_db=None) for row in report.details.layers.rows)
    details = dataclasses.replace(report.details, layers=dataclasses.replace(report.details.layers, rows=rows))
    text = html(dataclasses.replace(report, details=details).to_dict())
    assert ">sensitivity<" not in text
    assert "was not needed here" in text


def test_plots_have_words_the_colours_of_the_page_and_ids_of_their_own(report: Report) -> None:
    content = report.to_dict()
    found = [plots.latencies(content), plots.stairs(content, "seconds"), plots.stairs(content, "bytes")]
    ids: list[str] = []
    for plot in found:
        assert plot is not None
        assert not re.search(r"#[0-9a-f]{6}\b", plot.svg)
        assert "var(--" in plot.svg
        assert "font-family" not in plot.svg
        assert len(plot.words) > 40
        ids += re.findall(r'\bid="([^"]+)"', plot.svg)
    assert len(ids) == len(set(ids))
    assert found[2] is not None
    assert "From 4.96 MB to 1.36 MB, 27 % of it" in found[2].words


def test_a_plot_shows_the_steps_that_change_most(report: Report) -> None:
    content = report.to_dict()
    sizes = [1000.0, 900, 899, 898, 500, 499, 400, 300, 200, 150, 120, 110, 105]
    pairs = itertools.pairwise(sizes)
    content["stairs"]["bytes"] = [
        {"name": f"s{i} $x_$", "from": a, "to": b, "by": b - a} for i, (a, b) in enumerate(pairs)
    ]
    plot = plots.stairs(content, "bytes")
    assert plot is not None
    assert plot.svg.count("<text") == 2 * (2 + plots.STAIRS + 3)
    assert "smaller steps" in plot.svg
    assert "s3 $x_$" in plot.svg


@pytest.mark.parametrize("times", [[1e-3], [0.0, 0.0], [5e-9, 5e-9, 1.0]], ids=["one", "zeros", "far apart"])
def test_odd_latencies_are_drawn(report: Report, times: list[float]) -> None:
    assert report.speed is not None
    seconds = dataclasses.replace(report.speed.a, seconds=tuple(times))
    text = html(dataclasses.replace(report, speed=dataclasses.replace(report.speed, a=seconds, b=seconds)).to_dict())
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower().replace("finance", "")


def opened(text: str, folder: Path, order: str = "") -> Page:
    """The page after its script has run, in a browser."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium")
    file = folder / "report.html"
    file.write_text(text)
    words = [CHROMIUM, *WORDS, f"--user-data-dir={folder / 'profile'}", f"{file.as_uri()}{order}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)


def test_in_a_browser_no_script_fails_and_the_numbers_are_those_of_the_json(report: Report, tmp_path: Path) -> None:
    page = opened(html(report.to_dict()), tmp_path)
    assert page.root.get("data-ready") == "yes"
    assert "data-error" not in page.root
    assert_shows_its_json(page)
    assert page.content == json.loads(json.dumps(report.to_dict()))


@pytest.mark.parametrize(
    ("order", "wanted", "sorted_as"),
    [("0", [0, 1, 2], "ascending"), ("4", [2, 0, 1], "ascending"), ("5,5", [0, 1, 2], "ascending")],
    ids=["as in the graph", "the slowest first already, so the fastest", "without a time last, both ways"],
)
def test_in_a_browser_headings_sort(
    order: str, wanted: list[int], sorted_as: str, report: Report, tmp_path: Path
) -> None:
    page = opened(html(report.to_dict()), tmp_path, f"#sort={order}")
    assert report.details.layers is not None
    assert page.rows == [report.details.layers.rows[place].name for place in wanted]
    assert [a["aria-sort"] for tag, a in page.tags if "aria-sort" in a] == [sorted_as]


def test_in_a_browser_a_hostile_name_does_nothing(report: Report, tmp_path: Path) -> None:
    hurt = html(report.to_dict()).replace("<main>", "<main><script>document.title = 'owned'</script>")
    page = opened(hurt, tmp_path)
    assert page.root.get("data-ready") == "yes"
    titles = [tag for tag, _ in page.tags if tag == "title"]
    assert titles
    assert "script-src" in str(page.root.get("data-error"))  # the policy stops even a script that got in
