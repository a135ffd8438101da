"""A run as text, Markdown, JUnit XML, customSmallerIsBetter, annotations. Nothing is measured."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from onnxopt.ci import Result, read, run
from onnxopt.ci.github import LARGEST_SUMMARY, annotated, append_summary
from onnxopt.ci.junit import junit
from onnxopt.ci.markdown import escaped, markdown
from onnxopt.ci.smaller import smaller_is_better
from onnxopt.ci.text import text
from onnxopt.ci.written import prepare, write
from onnxopt.errors import DataError, UsageError

NASTY = "a | b\n<script>@you</script> `x` \x1b[31m\x00 % 100"


@pytest.fixture
def mixed(config, fake) -> Result:
    """One passes, one is slower, one less accurate, one cannot be read."""
    fake.speed = {"slow": fake.takes(1.1)}
    fake.accuracy = {"wrong": fake.accurate(0.2), "unreadable": DataError(NASTY)}
    return run(read(config("good", "slow", "wrong", "unreadable")))


def test_text_is_a_table_and_sentences(mixed: Result) -> None:
    lines = text(mixed, {"json": Path("out/ci.json")}).splitlines()
    assert lines[0].split() == ["model", "accuracy", "time", "change", "of", "time", "size", "verdict"]
    assert lines[1].split()[:6] == ["good", "top1", "+0.0000", "1", "ms", "+0.0"]
    assert lines[1].endswith("passed")
    assert lines[2].endswith("slower")
    assert "+10.0 % [+9.9, +10.1]" in lines[2]
    assert lines[3].endswith("less accurate")
    assert "top1 -0.2000" in lines[3]
    assert "exit code 4: 1 of 4 passed: slow slower, wrong less accurate, unreadable" in " ".join(lines)
    assert lines[-1] == "json in out/ci.json"


def test_text_is_short_and_narrow(config, fake) -> None:
    names = [f"a-model-with-a-rather-long-name-{i}" for i in range(40)]
    fake.accuracy = {name: DataError("wrong " * 50) for name in names[::2]}
    shown = text(run(read(config(*names))), {"json": Path("out/" + "x" * 60)}).splitlines()
    assert len(shown) <= 25
    assert max(map(len, shown)) <= 80
    assert any("more lines" in line for line in shown)


def test_text_has_no_control_characters(mixed: Result) -> None:
    assert all(char.isprintable() or char == "\n" for char in text(mixed, {}))


def test_places_have_rows_of_their_own(config, fake) -> None:
    result = run(read(config("a", head="[defaults]\nthreads = [1, 2]\n")))
    assert sum("cpu, 1 thread: " in line for line in text(result, {}).splitlines()) == 2


def test_markdown(mixed: Result) -> None:
    shown = markdown(mixed)
    assert shown.startswith("## onnxopt: failed\n")
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| model", "| good", "| slow", "| wrong", "| unreadable"]
    assert {row.replace("\\|", "").count("|") for row in rows} == {7}
    assert "### wrong: less accurate" in shown
    assert "explained by node 'conv\\_7'" in shown
    assert "+10.0 %" in shown
    assert "**slower**" in shown


def test_markdown_holds_what_files_say_as_text(mixed: Result) -> None:
    shown = markdown(mixed)
    assert "<script>" not in shown
    assert "@you" not in shown
    assert "&lt;script&gt;" in shown
    assert "\n" not in escaped(NASTY)


def test_markdown_of_a_run_that_passed(config, fake) -> None:
    shown = markdown(run(read(config("a"))))
    assert shown.startswith("## onnxopt: passed\n")
    assert "###" not in shown


def test_junit_parses_and_counts(mixed: Result) -> None:
    root = ET.fromstring(junit(mixed))
    assert {key: root.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "13",
        "failures": "2",
        "errors": "1",
    }
    cases = {(suite.get("name"), case.get("name")): case for suite in root for case in suite}
    failed = {key for key, case in cases.items() if case.find("failure") is not None}
    assert failed == {("slow", "speed"), ("wrong", "accuracy")}
    assert "10% more time" in cases["slow", "speed"].find("failure").get("message")
    assert "explained by" in cases["wrong", "accuracy"].find("failure").text
    assert cases["unreadable", "run"].find("error").get("type") == "exit code 3"
    assert cases["unreadable", "speed"].find("skipped") is not None
    assert cases["good", "speed"].find("system-out").text == "cpu, 1 thread: 1.00x [1.00, 1.00]"


def test_smaller_is_better(mixed: Result) -> None:
    values = json.loads(smaller_is_better(mixed))
    assert all({"name", "unit", "value"} <= value.keys() for value in values)
    slow = next(value for value in values if value["name"] == "slow: latency (cpu, 1 thread)")
    assert (slow["unit"], slow["value"]) == ("ms", 1.1)
    assert len({value["name"] for value in values}) == len(values)


def test_json_has_everything(mixed: Result) -> None:
    found = json.loads(json.dumps(mixed.to_dict()))
    assert (found["form"], found["version"], found["exit_code"], found["passed"]) == ("onnxopt ci", 1, 4, False)
    assert [model["verdict"] for model in found["models"]] == ["passed", "slower", "less accurate", "error"]
    assert found["models"][1]["speed"][0]["ratio"] == pytest.approx(1 / 1.1)
    assert found["models"][1]["findings"][0]["code"] == 6


def test_annotations_stand_at_the_table_of_the_model(mixed: Result, tmp_path: Path) -> None:
    lines = list(annotated(mixed, {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(tmp_path)}))
    assert len(lines) == 4
    assert lines[0].startswith(
        "::error file=onnxopt.toml,line=8,title=onnxopt speed%3A slow::slow: cpu, 1 thread: slower"
    )
    assert "10%25 more time" in lines[0]
    assert "\n" not in lines[-1]
    assert "%0A" in lines[-1]
    assert list(annotated(mixed, {})) == []


def test_the_summary_of_the_step_is_added_to(mixed: Result, tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("of another step\n")
    append_summary(markdown(mixed), {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text() == "of another step\n" + markdown(mixed)
    append_summary("x" * (LARGEST_SUMMARY + 1), {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.stat().st_size < LARGEST_SUMMARY
    append_summary("nothing to do", {})


def test_all_forms_are_written(mixed: Result, tmp_path: Path) -> None:
    places = {kind: tmp_path / "new" / kind for kind in ("json", "markdown", "junit", "smaller")}
    prepare(places)
    assert not any(path.exists() for path in places.values())
    write(mixed, places)
    assert places["markdown"].read_text() == markdown(mixed)
    assert json.loads(places["json"].read_text())["exit_code"] == 4
    assert ET.parse(places["junit"]).getroot().tag == "testsuites"


def test_a_place_that_cannot_be_written_is_found_out_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        prepare({"json": tmp_path / "file" / "ci.json"})
    with pytest.raises(UsageError, match="is a folder"):
        prepare({"json": tmp_path})
