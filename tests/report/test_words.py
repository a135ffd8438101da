"""Numbers and sentences of a report."""

import dataclasses

import pytest

from onnxopt.benchmark import Verdict
from onnxopt.pipeline import Step
from onnxopt.report import Report
from onnxopt.report.numbers import FORMS, number, pointer
from onnxopt.report.sentences import text, verdict


@pytest.mark.parametrize(
    ("form", "value", "shown"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 999.6, "1.00 kB"),
        ("bytes", 1_356_517, "1.36 MB"),
        ("bytes", 247_342_908, "247 MB"),
        ("signed bytes", -3_599_854, "−3.60 MB"),
        ("signed bytes", 111, "+111 B"),
        ("seconds", 0.003063, "3.06 ms"),
        ("seconds", 0.0009996, "1.00 ms"),
        ("seconds", 24.2e-6, "24.2 µs"),
        ("seconds", 46.25, "46.2 s"),
        ("seconds", 0, "0 µs"),
        ("times", 2.634, "2.63"),
        ("times", 14.26, "14.3"),
        ("percent", 0.2737, "27 %"),
        ("percent", 0.0041, "0.4 %"),
        ("points", 0.0034, "0.3"),
        ("points", -0.0004, "0.04"),
        ("signed points", -0.002, "−0.2"),
        ("gained points", 0.015, "−1.5"),
        ("gained plain", -0.25, "0.2500"),
        ("plain", 3.1e-6, "3.1e-06"),
        ("signed plain", -0.00163, "−0.0016"),
        ("count", 270, "270"),
        ("count", 2000, "2,000"),
        ("decibel", 31.26, "31.3 dB"),
        ("signed", -0.0025, "−0.0025"),
    ],
)
def test_numbers_are_written_for_people(form: str, value: float, shown: str) -> None:
    assert FORMS[form](value) == shown


def test_a_number_knows_its_place_and_what_is_missing_is_a_dash() -> None:
    content = {"ledger": {"a/b~c": {"file": 3}}, "speed": None}
    found = number(content, "bytes", "ledger", "a/b~c", "file")
    assert (found.field, found.value, found.text) == ("/ledger/a~1b~0c/file", 3, "3 B")
    assert number(content, "times", "speed", "ratio").text == "–"
    assert pointer("rows", 3) == "/rows/3"


def said(report: Report, **changes: object) -> str:
    return text(verdict(dataclasses.replace(report, **changes).to_dict()))  # type: ignore[arg-type]


def test_the_verdict_has_speed_size_and_accuracy_with_their_doubt(report: Report) -> None:
    assert said(report) == (
        "2.63 times as fast [2.55, 2.71], 27 % of the size, accuracy 0.3 points lower [−0.2, 0.8] on 2,000 held-out samples."
    )


def test_a_gain_in_accuracy_is_told_as_one(report: Report, dropped) -> None:
    better = dataclasses.replace(dropped, drop=-0.0025, low=-0.02, high=0.015, samples=1)
    assert said(report, drop=better).endswith("accuracy 0.2 points higher [−1.5, 2.0] on 1 held-out sample.")


def test_an_error_that_grows_is_told_as_worse(report: Report, dropped) -> None:
    worse = dataclasses.replace(dropped, metric="mse", before=0.0, after=0.5, drop=0.5, low=0.4, high=0.6)
    assert "mse 0.5000 higher, which is worse [0.4000, 0.6000] on" in said(report, drop=worse)


def test_what_cannot_be_told_apart_is_not_claimed(report: Report) -> None:
    assert report.speed is not None
    speed = dataclasses.replace(report.speed, ratio=1.01, low=0.98, high=1.04, verdict=Verdict.NOT_SIGNIFICANT)
    same = dataclasses.replace(report.after, size=report.before.size)
    assert said(report, speed=speed, after=same, drop=None) == (
        "No significant difference in speed (1.01 times as fast [0.98, 1.04]), about the same size, "
        "accuracy not measured (there were no data)."
    )


def test_slower_is_told_in_times_as_long(report: Report) -> None:
    assert report.speed is not None
    speed = dataclasses.replace(report.speed, ratio=0.5, low=0.4, high=0.8, verdict=Verdict.SLOWER)
    assert said(report, speed=speed).startswith("Slower: a run takes 2.00 times as long [1.25, 2.50], ")


def test_an_original_that_is_kept_says_what_stood_in_the_way(report: Report) -> None:
    tried: tuple[Step, ...] = tuple(step for step in report.steps if not step.kept)
    assert said(report, kept_original=True, steps=tried) == (
        "Nothing could be improved: the original is kept "
        "(of what was tried, 1 too inaccurate and 1 that did not pay or did not work)."
    )
    assert said(report, kept_original=True, steps=()) == "Nothing could be improved: the original is kept."
