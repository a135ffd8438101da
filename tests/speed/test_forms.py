"""What is written: the same numbers in every form."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onnxopt.errors import UsageError
from onnxopt.speed import FORMS, VERSION, Gates, Speed, form_of, judged
from onnxopt.speed.tables import names, tables, unit_of, with_interval


def test_json_has_every_number(result: Speed) -> None:
    found = json.loads(FORMS["json"](result))
    assert found == json.loads(json.dumps(result.to_dict()))
    assert found["version"] == VERSION == 2
    assert found["models"][0] == {"path": "some/a.onnx", "bytes": 1_500_000, "sha256": "a" * 64, "external": {}}
    last = found["measurements"][3]
    assert (last["model"], last["setting"], last["batch"]) == ("some/b.onnx", "cpu, 1 thread, batch 8", 8)
    assert last["against"] == {"model": "some/a.onnx", "setting": "cpu, 1 thread, batch 8"}
    assert (last["comparison"]["ratio"], last["comparison"]["verdict"]) == (0.9, "slower")
    assert last["comparison"]["reason"] == "the interval lies below 0.995"
    assert last["latency"]["p50"]["value"] == pytest.approx(0.02 / 0.9)
    assert last["latency"]["p50"]["low"] < last["latency"]["p50"]["value"] < last["latency"]["p50"]["high"]
    assert last["fresh"]["resident"] == {"median": 1.5e6, "low": 1e6, "high": 2e6, "confidence": 0.5}
    assert found["measurements"][2]["streams"][0]["samples_per_second"]["value"] == pytest.approx(40 * 8 / 0.02)
    assert found["environment"]["provider"] == "cpu"
    assert any("40% of a CPU" in warning for warning in found["warnings"])


def test_every_number_of_the_tables_is_in_the_json(result: Speed) -> None:
    """To the digits that are printed: in some unit."""
    text = json.dumps(result.to_dict())
    numbers = {float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)}
    scaled = {number * factor for number in numbers for factor in (1, 1e3, 1e6, 1e-3, 1e-6)}
    for table in tables(result):
        for cell in (cell for row in table.rows for cell in row.cells):
            for printed in re.findall(r"\d+\.?\d*", cell.removesuffix("significant")):
                assert any(float(printed) == pytest.approx(number, rel=6e-3) for number in scaled), (table.title, cell)


def test_junit_has_a_case_for_each_model_and_setting(result: Speed) -> None:
    root = ElementTree.fromstring(FORMS["junit"](judged(result, Gates(max_slowdown=0.03))))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    cases = suite.findall("testcase")
    assert [(case.get("name"), case.get("classname")) for case in cases][3] == (
        "some/b.onnx",
        "onnxopt bench (cpu, 1 thread, batch 8)",
    )
    assert float(cases[0].get("time", "")) == pytest.approx(result.timing.median)
    failed = [case for case in cases if case.find("failure") is not None]
    assert failed == [cases[3]]
    failure = failed[0].find("failure")
    assert failure is not None
    assert "is slower: +11.1%" in (failure.get("message") or "")
    assert "p50 22.2 [" in (cases[3].findtext("system-out") or "")


def test_junit_stays_xml_whatever_a_model_is_called(result: Speed) -> None:
    odd = 'a<b>&"\x00\x1b\ud800.onnx'
    measurements = tuple(replace(each, model=odd) for each in result.measurements[:1])
    models = (replace(result.models[0], path=odd),)
    text = FORMS["junit"](replace(result, models=models, measurements=measurements))
    (case,) = ElementTree.fromstring(text).iter("testcase")
    assert case.get("name") == 'a<b>&"???.onnx'


def test_the_array_of_the_benchmark_action(result: Speed) -> None:
    entries = json.loads(FORMS["smaller"](result))
    assert isinstance(entries, list)
    for entry in entries:
        assert {"name", "unit", "value"} <= entry.keys() <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], (int, float))
        assert all(isinstance(entry[key], str) for key in entry.keys() - {"value"})
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries)
    first = by_name["a.onnx (cpu, 1 thread, batch 1): p50"]
    assert (first["unit"], first["value"]) == ("ms", pytest.approx(20))
    assert first["range"] == " .. ".join(f"{1e3 * end:.4g}" for end in result.measurements[0].percentiles[50][1:])
    assert by_name["a.onnx (cpu, 1 thread, batch 8): time per sample, 2 streams"]["value"] == pytest.approx(
        1e3 * 0.02 / 320
    )
    assert by_name["b.onnx: file"]["value"] == 1_500_000
    assert (
        "ratio against a.onnx: 2.00x [1.90, 2.10], faster" in by_name["b.onnx (cpu, 1 thread, batch 1): p50"]["extra"]
    )


def test_markdown_has_whole_tables(result: Speed) -> None:
    lines = FORMS["markdown"](judged(result, Gates(max_slowdown=0.03))).splitlines()
    assert "| setting | model | p50 (ms) | p90 (ms) | p99 (ms) |" in lines
    assert "| batch 8 | b.onnx | 0.90x [0.85, 0.96] | slower | lies below 0.995 |" in lines
    assert any(line.startswith("- **missed**: some/b.onnx against some/a.onnx") for line in lines)
    assert any(line.startswith("- warning: ") and "40% of a CPU" in line for line in lines)
    widths = {line.count("|") for line in lines if line.startswith(("| setting", "|---"))}
    assert len(widths) >= 1


@pytest.mark.parametrize(
    ("words", "form", "path"),
    [
        ("a/b.json", "json", "a/b.json"),
        ("b.smaller.json", "smaller", "b.smaller.json"),
        ("smaller:b.json", "smaller", "b.json"),
        ("b.md", "markdown", "b.md"),
        ("junit:results", "junit", "results"),
        ("b.xml", "junit", "b.xml"),
        ("odd:b.json", "json", "odd:b.json"),
    ],
)
def test_the_ending_or_a_word_says_the_form(words: str, form: str, path: str) -> None:
    assert form_of(words) == (form, Path(path))


@pytest.mark.parametrize("words", ["b.txt", "b", "odd:b", "json:"])
def test_another_ending_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="the ending says the form"):
        form_of(words)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1.234, 1.2, 1.25), "1.23 [1.20, 1.25]"),
        ((45.67, 45.0, 46.0), "45.7 [45.0, 46.0]"),
        ((1234.5, 1200.0, float("inf")), "1234 [1200, ?]"),
        ((0.1234, 0.0, 0.2), "0.123 [0.000, 0.200]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
    ],
)
def test_three_digits(numbers: tuple[float, float, float], text: str) -> None:
    assert with_interval(*numbers) == text


def test_the_unit_is_one_in_which_all_have_a_digit() -> None:
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    assert unit_of([2.0, 0.5], units) == (1e-3, "ms")
    assert unit_of([1e-9], units) == (1e-6, "us")
    assert unit_of([], units) == (1e-6, "us")


def test_models_of_one_name_are_told_by_their_paths(result: Speed) -> None:
    assert names(result) == ["a.onnx", "b.onnx"]
    same = tuple(replace(model, path=f"{place}/m.onnx") for place, model in enumerate(result.models))
    assert names(replace(result, models=same)) == ["0/m.onnx", "1/m.onnx"]
