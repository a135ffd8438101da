"""The road: what is asked of whom, findings, exit codes. Nothing is measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from onnxopt import progress
from onnxopt.ci import Choices, adapter, read, run
from onnxopt.ci.judge import strictest
from onnxopt.ci.results import WORST_FIRST, Outcome, worst_code
from onnxopt.ci.run import _place
from onnxopt.errors import DataError, ModelError, UsageError


def sentences(result) -> list[str]:
    return [finding.sentence for outcome in result.outcomes for finding in outcome.findings]


def test_all_pass(config, fake) -> None:
    result = run(read(config("a", "b")))
    assert (result.exit_code, result.passed, result.ended) == (0, True, "complete")
    assert result.headline() == "2 of 2 passed"
    assert fake.calls[:2] == [
        ("compared", "a", "a-old.onnx", "a.onnx"),
        ("timed", "a", "a-old.onnx", "a.onnx", ("cpu", 1, None)),
    ]


SLOW, WRONG, LARGE, UNREADABLE, BUG = "slow", "wrong", "large", "unreadable", "bug"
COMBINATIONS = [
    ((), 0), ((SLOW,), 6), ((WRONG,), 4), ((LARGE,), 6), ((UNREADABLE,), 3), ((BUG,), 1), ((SLOW, WRONG), 4),
    ((SLOW, UNREADABLE), 6), ((WRONG, UNREADABLE), 4), ((SLOW, WRONG, UNREADABLE, BUG), 4), ((UNREADABLE, BUG), 3),
    ((LARGE, SLOW), 6), ((LARGE, WRONG), 4),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "code"), COMBINATIONS)
def test_exit_codes_of_several_models(config, fake, wrong: tuple[str, ...], code: int) -> None:
    """A good model in front and one behind, whatever fails between them."""
    path = config("good", *wrong, "last")
    fake.speed = {SLOW: fake.takes(1.1)}
    fake.accuracy = {WRONG: fake.accurate(0.2), UNREADABLE: ModelError("cut off"), BUG: ZeroDivisionError("x")}
    if LARGE in wrong:
        path.write_text(path.read_text().replace('name = "large"', 'name = "large"\nmax_size = 999'))
    result = run(read(path))
    assert result.exit_code == code
    assert [outcome.passed for outcome in result.outcomes] == [True, *(False for _ in wrong), True]
    assert result.ended == "complete"


def test_what_is_done_is_told(config, fake) -> None:
    told: list[str] = []
    with progress.heard(told.append):
        run(read(config("a", "b")))
    assert told[0] == "[1/2] a: reading"
    assert told[-1] == "[2/2] b: timing on cpu, 1 thread"


def test_the_time_that_is_left_is_guessed_from_the_models_before() -> None:
    outcomes = [Outcome(name, f"{name}.onnx", 1) for name in "abc"]
    assert _place("a", outcomes) == "[1/3] a"
    outcomes[0].seconds = 20.0
    assert _place("b", outcomes) == "[2/3] b (about 40 s left)"


def test_one_model_that_is_slower_and_less_accurate(config, fake) -> None:
    fake.speed, fake.accuracy = {"a": fake.takes(1.1)}, {"a": fake.accurate(0.2)}
    result = run(read(config("a")))
    assert result.exit_code == 4
    assert result.outcomes[0].verdict == "less accurate, slower"


def test_every_exit_code_has_its_place() -> None:
    assert [worst_code(WORST_FIRST[i:]) for i in range(len(WORST_FIRST))] == list(WORST_FIRST)
    assert worst_code([]) == 0


def test_the_upper_end_of_the_interval_decides(config, fake) -> None:
    path = config("a", head='[defaults]\nfail_if_slower = "5%"\n')
    fake.speed = {"a": fake.takes(1.03, doubt=0.01)}
    assert run(read(path)).exit_code == 0
    fake.speed = {"a": fake.takes(1.06, doubt=0.001)}
    assert "slower: a run takes 6% more time" in sentences(run(read(path)))[0]


def test_a_time_that_cannot_be_told_fails_with_words_of_its_own(config, fake) -> None:
    fake.speed = {"a": fake.takes(1.03, doubt=0.05)}
    result = run(read(config("a")))
    assert result.exit_code == 6
    assert result.outcomes[0].verdict == "too noisy to tell"
    assert "not shown to be fast enough" in sentences(result)[0]
    assert "5% is allowed" in sentences(result)[0]


def test_an_interval_without_an_end(config, fake) -> None:
    fake.speed = {"a": replace(fake.takes(1.0), low=0.0, high=float("inf"))}
    result = run(read(config("a")))
    assert result.exit_code == 6
    assert "[-100%, inf%]" in sentences(result)[0]
    assert result.to_dict()["models"][0]["speed"][0]["high"] is None


@pytest.mark.parametrize(
    ("slower", "ratio", "limit"), [(0.05, None, 0.05), (None, None, None), (0.05, 1.25, -0.2), (None, 0.8, 0.25)]
)
def test_the_strictest_limit_says_how_long_is_measured(config, slower, ratio, limit) -> None:
    (entry,) = read(config("a")).models
    found = strictest(replace(entry, fail_if_slower=slower, min_ratio=ratio))
    assert found == (limit and pytest.approx(limit))


def test_the_command_line_sets_the_limit(config, fake) -> None:
    fake.speed = {"a": fake.takes(1.04)}
    path = config("a")
    assert run(read(path)).exit_code == 0
    assert run(read(path), Choices(fail_if_slower=0.03)).exit_code == 6


def test_off_asks_nothing_of_the_time(config, fake) -> None:
    fake.speed = {"a": fake.takes(2.0)}
    assert run(read(config("a", head='[defaults]\nfail_if_slower = "off"\n'))).exit_code == 0


def test_a_ratio_that_is_asked_for(config, fake) -> None:
    path = config("a", head="[defaults]\nmin_ratio = 1.5\n")
    fake.speed = {"a": fake.takes(0.5)}
    assert run(read(path)).exit_code == 0
    fake.speed = {"a": fake.takes(0.8)}
    assert "the low end is under 1.5" in sentences(run(read(path)))[0]


def test_each_place_is_timed_and_judged(config, fake) -> None:
    path = config("a", head='[defaults]\nthreads = [1, 2]\nprovider = ["cpu", "cuda"]\n')
    fake.speed = {"a": [fake.takes(1), fake.takes(2), fake.takes(1), fake.takes(3)]}
    result = run(read(path))
    places = [("cpu", 1, None), ("cpu", 2, None), ("cuda", 1, None), ("cuda", 2, None)]
    assert [call[4] for call in fake.calls if call[0] == "timed"] == places
    assert len(sentences(result)) == 2


def test_a_failure_of_accuracy_names_the_layers(config, fake) -> None:
    fake.accuracy = {"a": fake.accurate(0.2)}
    result = run(read(config("a", "b")))
    assert [call[1] for call in fake.calls if call[0] == "explained"] == ["a"]
    assert sentences(result)[-1] == "explained by node 'conv_7'"
    assert result.to_dict()["models"][0]["accuracy"]["layers"] == ["node 'conv_7'"]


def test_of_many_layers_the_first_are_told(config, fake) -> None:
    fake.accuracy, fake.layers = {"a": fake.accurate(0.2)}, tuple(f"node {i}" for i in range(9))
    found = sentences(run(read(config("a"))))
    assert found[1] == "explained by node 0"
    assert found[-1] == "and by 4 more layers, in the JSON"


def test_an_interrupted_search_for_layers_leaves_the_verdict(config, fake, monkeypatch) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter, "explained", interrupt)
    fake.accuracy = {"a": fake.accurate(0.2)}
    result = run(read(config("a")))
    assert result.exit_code == 130
    assert result.outcomes[0].verdict == "interrupted, less accurate"


def test_layers_that_cannot_be_found_leave_the_verdict(config, fake, monkeypatch) -> None:
    def refuse(*_):
        raise DataError("too many nodes")

    monkeypatch.setattr(adapter, "explained", refuse)
    fake.accuracy = {"a": fake.accurate(0.2)}
    result = run(read(config("a")))
    assert result.exit_code == 4
    assert result.outcomes[0].notes == ["which layers explain it: too many nodes"]


def test_another_signature_is_not_timed_and_not_bisected(config, fake) -> None:
    fake.accuracy = {"a": replace(fake.accurate(), problems=("there is no input 'x'",), comparable=False)}
    result = run(read(config("a")))
    assert result.exit_code == 4
    assert {call[0] for call in fake.calls} == {"compared"}


def test_an_optimized_model_is_judged_in_place_of_the_input(config, fake, tmp_path: Path) -> None:
    path = config("a", head="[defaults]\noptimize = true\n")
    run(read(path))
    assert fake.calls == [
        ("optimized", "a"),
        ("compared", "a", "a-old.onnx", "a.onnx"),
        ("timed", "a", "a-old.onnx", "a.onnx", ("cpu", 1, None)),
    ]
    assert run(read(path)).outcomes[0].candidate == str(tmp_path / "out" / "a.onnx")


def test_without_a_baseline_the_input_is_the_baseline_of_the_optimized(config, fake, tmp_path: Path) -> None:
    path = config("a", head="[defaults]\noptimize = true\n")
    path.write_text(path.read_text().replace('baseline = "a-old.onnx"', ""))
    seen = []
    fake.accuracy = {}
    run(read(path), told=lambda result: seen.append(result))
    assert ("compared", "a", "a.onnx", "a.onnx") in fake.calls
    assert ("timed", "a", "a.onnx", "a.onnx", ("cpu", 1, None)) in fake.calls
    assert len(seen) == 2


def test_a_reference_of_its_own(config, fake) -> None:
    path = config("a")
    path.write_text(path.read_text() + 'reference = "float.onnx"\n')
    run(read(path))
    assert fake.calls[0] == ("compared", "a", "float.onnx", "a.onnx")
    assert fake.calls[1][2] == "a-old.onnx"


def test_a_baseline_that_is_missing(config, fake, tmp_path: Path) -> None:
    path = config("a", "b")
    (tmp_path / "a-old.onnx").unlink()
    result = run(read(path))
    assert result.exit_code == 3
    assert "there is no baseline" in sentences(result)[0]
    assert "baseline_optional" in sentences(result)[0]
    assert result.outcomes[1].passed


def test_a_baseline_that_may_be_missing(config, fake, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(adapter, "scored", lambda entry, model: None)
    path = config("a", head="[defaults]\nbaseline_optional = true\n")
    (tmp_path / "a-old.onnx").unlink()
    result = run(read(path))
    assert result.exit_code == 0
    assert "there is no baseline" in result.outcomes[0].notes[0]
    assert fake.calls == [("timed", "a", None, "a.onnx", ("cpu", 1, None))]


def test_an_interrupted_run_tells_what_it_had(config, fake) -> None:
    """In the second of three; its accuracy was already known."""
    fake.speed, told = {"b": KeyboardInterrupt()}, []
    result = run(read(config("a", "b", "c")), told=lambda result: told.append((result.ended, result.to_dict())))
    assert (result.exit_code, result.ended) == (130, "interrupted")
    assert [outcome.verdict for outcome in result.outcomes] == ["passed", "interrupted", "not run"]
    assert told[-1][0] == "interrupted"
    assert told[-1][1]["models"][1]["accuracy"]["score"]["metric"] == "top1"
    assert [ended for ended, _ in told] == ["unfinished", "unfinished", "interrupted"]


def test_a_run_that_did_not_end_has_not_passed(config, fake) -> None:
    told = []
    run(read(config("a", "b")), told=lambda result: told.append(result.passed))
    assert told == [False, False, True]


def test_stop_at_the_first_failure(config, fake) -> None:
    fake.speed = {"a": fake.takes(2)}
    path = config("a", "b")
    result = run(read(path), Choices(stop_at_first_failure=True))
    assert (result.exit_code, result.ended, result.outcomes[1].verdict) == (6, "stopped", "not run")
    assert "stopped, the rest was not run" in result.headline()
    path = config("a", "b", head="[ci]\nstop_at_first_failure = true\n")
    assert run(read(path)).ended == "stopped"


def test_only_some(config, fake) -> None:
    assert [each.name for each in run(read(config("a", "b")), Choices(only=("b",))).outcomes] == ["b"]
    with pytest.raises(UsageError, match="has no model 'model_b'; did you mean 'model_a'"):
        run(read(config("model_a")), Choices(only=("model_b",)))


def test_a_bug_keeps_its_trace_and_says_so(config, fake) -> None:
    fake.optimized = {"a": ZeroDivisionError("division by zero")}
    result = run(read(config("a", head="[defaults]\noptimize = true\n")))
    assert sentences(result) == ["this is a bug in onnxopt (ZeroDivisionError: division by zero); report it"]
    assert "Traceback" in result.outcomes[0].trace
