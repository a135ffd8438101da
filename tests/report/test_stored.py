"""Stored reports: read back, shown again, and checked, because they may come from anywhere."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onnxopt.cli.main import cli
from onnxopt.errors import DataError
from onnxopt.report import Report, write, write_content
from onnxopt.report.html import html
from onnxopt.report.markdown import markdown
from onnxopt.report.stored import read


def stored(content: Any, folder: Path) -> Path:
    path = folder / "r.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_stored_report_gives_the_same_page_and_markdown(report: Report, tmp_path: Path) -> None:
    for name in ("r.json", "r.html", "r.md"):
        write(report, tmp_path / name)
    for name in ("again.html", "again.md"):
        done = CliRunner().invoke(cli, ["report", str(tmp_path / "r.json"), "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert (tmp_path / name).read_bytes() == (tmp_path / f"r{Path(name).suffix}").read_bytes()


def test_the_page_lies_beside_the_report_unless_said_otherwise(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path / "r.json")
    assert CliRunner().invoke(cli, ["report", str(tmp_path / "r.json")]).output == f"{tmp_path / 'r.html'}\n"
    assert (tmp_path / "r.html").exists()


def test_it_is_never_written_over_what_it_reads(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path / "r.json")
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.json")])
    assert "is read as input" in str(done.exception)


def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "none.json"), "-o", str(tmp_path / "r.pdf")])
    assert "there are .json, .md and .html" in str(done.exception)


def test_older_versions_are_refused_in_a_sentence(report: Report, tmp_path: Path) -> None:
    path = stored({**report.to_dict(), "version": 2}, tmp_path)
    with pytest.raises(
        DataError, match=r"is a report of version 2, and this onnxopt shows version 3: .* run onnxopt optimize again"
    ):
        read(path)


NOT_REPORTS = {
    "is not JSON": "{",
    "is no report of onnxopt": "[]",
    "is not JSON, or": "[" * 100_000,
    "is no report": '{"a": 1}',
}


@pytest.mark.parametrize(("said", "words"), NOT_REPORTS.items(), ids=NOT_REPORTS.keys())
def test_what_is_no_report_is_refused(said: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(stored(words, tmp_path))


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(DataError, match="more than 64 MB"):
        read(tmp_path / "huge.json")


DAMAGED = {
    "a size in words": (("after", "bytes"), "<script>", "/after/bytes is not a number"),
    "a size that is negative": (("after", "bytes"), -1, "/after/bytes is negative"),
    "true for a number": (("before", "nodes"), True, "/before/nodes is not a number"),
    "a number beyond all": (("seconds",), 10**400, "/seconds is no number"),
    "an infinite number": (("seconds",), float("inf"), "/seconds is no number"),
    "a step without its words": (("steps", 0, "pass"), None, "/steps/0/pass is not text"),
    "layers that are text": (("layers", "rows"), "x", "/layers/rows is not a list"),
    "a layer's time in words": (("layers", "rows", 1, "seconds"), "1; x", "/layers/rows/1/seconds is not a number"),
    "edges that fall": (("latency", "histogram", "edges", 3), 0, "/latency/histogram is no histogram"),
    "bins that are missing": (("latency", "histogram", "after"), [], "/latency/histogram is no histogram"),
    "a version of a package as a list": (("origin", "versions", "numpy"), [], "/origin/versions/numpy is not text"),
}


@pytest.mark.parametrize(("where", "value", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_report_is_refused_with_the_place(
    where: tuple[Any, ...], value: Any, said: str, report: Report, tmp_path: Path
) -> None:
    content = copy.deepcopy(report.to_dict())
    *path, last = where
    at: Any = content
    for part in path:
        at = at[part]
    at[last] = value
    with pytest.raises(DataError, match=f"is damaged: {said}"):
        read(stored(content, tmp_path))


def every_path(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of all values within, the places."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [found for name, value in items for found in ((*path, name), *every_path(value, (*path, name)))]


def test_whatever_is_replaced_the_report_is_refused_or_shown(report: Report, tmp_path: Path) -> None:
    """Nothing a file says may end in another error, or in an element of its own."""
    original = report.to_dict()
    paths = [path for path in every_path(original) if "edges" not in path and "operators" not in path]
    for number, path in enumerate(paths):
        content = copy.deepcopy(original)
        at: Any = content
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = [None, "<b>", 0, -1.5, [], {}, 10**17, True][number % 8]
        try:
            found = read(stored(content, tmp_path))
        except DataError:
            continue
        assert not any("<b>" in line for line in markdown(found).splitlines() if not line.startswith("    "))  # code
        if number % 25 == 0:
            assert "<b>" not in html(found)


def test_half_a_surrogate_pair_can_be_written(report: Report, tmp_path: Path) -> None:
    content = {**report.to_dict(), "notes": ["\ud800"]}
    for name in ("r.html", "r.md", "r.json"):
        write_content(content, tmp_path / name)
    assert read(tmp_path / "r.json")["notes"] == ["\ud800"]


def test_printed_as_json_nothing_is_written(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path / "r.json")
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "r.json"), "--json"])
    assert json.loads(done.output) == json.loads((tmp_path / "r.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
