"""Metrics: known values, what they refuse, and that NaN never helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onnxopt.errors import DataError, UsageError
from onnxopt.metrics import METRICS, drop, drop_interval, find_metric

LOGITS = np.array([[3.0, 1.0, -2.0], [0.0, 2.0, 1.0], [0.0, 1.0, 5.0]], np.float32)


def evidence(name, output, reference=None, labels=None, feeds=None):
    outputs = output if isinstance(output, dict) else {"y": np.asarray(output)}
    reference = outputs if reference is None else reference
    wanted = reference if isinstance(reference, dict) else {"y": np.asarray(reference)}
    return METRICS[name].evidence(outputs, None if labels is None else np.asarray(labels), wanted, feeds or {})


def score(name, *args, **kwargs):
    return METRICS[name].score(evidence(name, *args, **kwargs))


TOP1 = {
    "logits": (LOGITS, [0, 1, 1], [1, 1, 0]),
    "flattened maps": (LOGITS[:, :, None, None], [0, 1, 1], [1, 1, 0]),
    "labels in a column": (LOGITS, [[0], [1], [1]], [1, 1, 0]),
    "class numbers in the graph": (np.array([2, 1, 0]), [2, 2, 0], [1, 0, 1]),
    "one probability": (np.array([[0.9], [0.2], [np.nan]], np.float32), [1, 0, 0], [1, 1, 0]),
    "equal scores: the lower class": (np.ones((3, 4), np.float32), [0, 1, 3], [1, 0, 0]),
    "NaN is wrong": (np.array([[9, np.nan], [9, 1], [np.inf, 0]]), [0, 0, 0], [0, 1, 0]),
}


@pytest.mark.parametrize(("output", "labels", "right"), TOP1.values(), ids=TOP1.keys())
def test_top1(output, labels, right) -> None:
    assert evidence("top1", output, labels=labels)[:, 0].tolist() == right


def test_top5_counts_the_five_highest() -> None:
    scores = np.arange(8.0)[None].repeat(2, 0)
    assert evidence("top5", scores, labels=[3, 2])[:, 0].tolist() == [1, 0]


def test_a_classifier_that_gives_label_and_probabilities_is_judged_by_these() -> None:
    outputs = {"label": np.array([0, 0, 0]), "scores": LOGITS}
    assert score("top1", outputs, labels=[0, 1, 2]) == 1


AGREEMENT = {
    "logits": (LOGITS, LOGITS[[0, 1, 1]], [1, 1, 0]),
    "probabilities": ([[0.6, 0.4], [0.3, 0.7]], [[0.9, 0.1], [0.6, 0.4]], [1, 0]),
    "multi-label": ([[0.9, 0.9], [0.1, 0.2]], [[0.9, 0.8], [0.1, 0.9]], [1, 0.5]),
    "one probability": ([[0.9], [0.4]], [[0.6], [0.6]], [1, 0]),
    "tokens": (LOGITS[None], LOGITS[None, [0, 1, 1]], [2 / 3]),
    "logit maps": (LOGITS.T.reshape(1, 3, 3, 1), LOGITS[[0, 1, 1]].T.reshape(1, 3, 3, 1), [2 / 3]),
    "class numbers": (np.array([1, 2, 3]), np.array([1, 2, 2]), [1, 1, 0]),
    "words": (np.array(["a", "b"], object), np.array(["a", "c"], object), [1, 0]),
    "NaN is wrong": ([[2.0, -1], [2, -1]], [[2.0, np.nan], [np.inf, -1]], [0, 0]),
    "another shape is wrong": (LOGITS, LOGITS[:2], [0, 0, 0]),
}


@pytest.mark.parametrize(("reference", "output", "shares"), AGREEMENT.values(), ids=AGREEMENT.keys())
def test_agreement(reference, output, shares) -> None:
    np.testing.assert_allclose(evidence("agreement", output, reference)[:, 0], shares)


def test_agreement_leaves_out_outputs_of_another_kind() -> None:
    reference = {"scores": np.array([[0.9, 0.1], [0.2, 0.8]]), "boxes": np.array([[3.0, 7.0], [5.0, 1.0]])}
    assert score("agreement", {**reference, "boxes": -reference["boxes"]}, reference) == 1


A = np.array([[3.0, 4.0], [0.0, 0.0]])
DISTANCES = {
    "cosine of opposite and zero": ("cosine", [[-3.0, -4.0], [0.0, 0.0]], A, [-1, 1]),
    "cosine of zero and not zero": ("cosine", [[3.0, 4.0], [1.0, 0.0]], A, [1, 0]),
    "max-abs-error": ("max-abs-error", [[3.0, 6.0], [0.5, 0.0]], A, [2, 0.5]),
    "mse": ("mse", [[3.0, 6.0], [0.0, 0.0]], A, [2, 0]),
    "relative-error": ("relative-error", [[3.0, 5.0], [1.0, 0.0]], A, [0.2, np.inf]),
    "the worst output counts": ("max-abs-error", {"a": A, "b": A + 1}, {"a": A, "b": A}, [1, 1]),
    "worst cosine counts": ("cosine", {"a": A[:1], "b": -A[:1]}, {"a": A[:1], "b": A[:1]}, [-1]),
    "integer outputs do not count": (
        "mse",
        {"a": A, "b": np.array([1, 2])},
        {"a": A, "b": np.array([9, 9])},
        [0, 0],
    ),
    "outputs without a common axis are one row": (
        "mse",
        {"a": A, "b": A[0]},
        {"a": A, "b": A[0] + 0},
        [0, 0],
    ),
    "different lengths are one row": ("mse", {"a": A, "b": np.ones(3)}, {"a": A, "b": np.zeros(3)}, [1]),
}


@pytest.mark.parametrize(("name", "output", "reference", "rows"), DISTANCES.values(), ids=DISTANCES.keys())
def test_distances(name, output, reference, rows) -> None:
    np.testing.assert_allclose(evidence(name, output, reference)[:, 0], rows, atol=1e-12)


def test_sqnr_in_decibel_of_the_worst_output() -> None:
    clean = {"a": np.ones((4, 5)), "b": np.full((4, 5), 10.0)}
    noisy = {"a": clean["a"] + 0.1, "b": clean["b"] + 0.1}
    assert evidence("sqnr", noisy, clean).shape == (4, 4)
    assert score("sqnr", noisy, clean) == pytest.approx(20)
    assert score("sqnr", clean) == 150


@pytest.mark.parametrize("name", ["agreement", "cosine", "sqnr", "max-abs-error", "relative-error", "mse"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_nan_and_inf_are_the_worst_and_a_drop_is_seen(name, broken) -> None:
    bad = LOGITS.copy()
    bad[1, 1] = broken
    metric, original = METRICS[name], evidence(name, LOGITS)
    assert drop(metric, original, evidence(name, bad, LOGITS)) > 0
    assert drop(metric, evidence(name, bad), evidence(name, bad)) >= 0
    low, high = drop_interval(metric, original, evidence(name, bad, LOGITS), 0.9, 0, 50)
    assert low <= high
    assert high > 0


def sentence_pairs(n: int = 20):
    random = np.random.default_rng(0)
    tokens = random.standard_normal((2 * n, 4, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0]] * (2 * n))
    return tokens, mask, np.repeat(random.random(n), 2)


def test_spearman_of_mean_pooled_pairs() -> None:
    tokens, mask, gold = sentence_pairs()
    pooled = tokens[:, :3].mean(1)
    left, right = pooled[0::2], pooled[1::2]
    cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    expected = stats.spearmanr(cosines, gold[::2]).statistic
    assert score("spearman-cosine", tokens, labels=gold, feeds={"attention_mask": mask}) == pytest.approx(expected)
    assert score("spearman-cosine", pooled, labels=gold) == pytest.approx(expected)


def test_spearman_with_nan_is_the_worst() -> None:
    tokens, mask, gold = sentence_pairs()
    tokens[3, 0, 0] = np.nan
    assert score("spearman-cosine", tokens, labels=gold, feeds={"attention_mask": mask}) == -1


def test_bfloat16_outputs_are_floats() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert score("cosine", LOGITS.astype(bfloat16)) == pytest.approx(1)
    assert score("agreement", LOGITS.astype(bfloat16)) == 1


REFUSED = {
    "top1 without labels": ("top1", LOGITS, None, "needs labels"),
    "top1 with labels beyond the classes": ("top1", LOGITS, [0, 1, 3], "3 classes"),
    "top1 with fractions as labels": ("top1", LOGITS, [0.5, 1, 2], "class number"),
    "top1 with one-hot labels": ("top1", LOGITS, np.eye(3), "class number"),
    "top1 of a regression": ("top1", [[3.0], [4.0]], [0, 1], "cosine or relative-error"),
    "top5 of three classes": ("top5", LOGITS, [0, 1, 2], "use --metric top1"),
    "top1 with outputs that do not match": ("top1", np.ones(2), [0, 1, 2], "3 labels"),
    "agreement of a regression": ("agreement", [[3.0], [4.0]], None, "cosine or relative-error"),
    "cosine without float outputs": ("cosine", [1, 2], None, "output of floats"),
    "spearman of an odd batch": ("spearman-cosine", LOGITS, [1.0, 1.0, 2.0], "even batch size"),
    "spearman with words as labels": ("spearman-cosine", LOGITS[:2], ["a", "b"], "a number as label"),
    "spearman of equal gold scores": (
        "spearman-cosine",
        LOGITS[[0, 1, 1, 2]],
        [1.0, 1, 1, 1],
        "different gold",
    ),
}


@pytest.mark.parametrize(("name", "output", "labels", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(name, output, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        score(name, output, labels=labels)


def test_a_missing_output_is_named() -> None:
    with pytest.raises(DataError, match="no output 'y'"):
        evidence("mse", {"z": A}, A)


def test_find_metric_by_name_or_by_the_labels() -> None:
    assert find_metric(None, True).name == "top1"
    assert find_metric(None, True, class_labels=False).name == "agreement"
    assert find_metric(None, False).name == "agreement"
    assert all(find_metric(name, True).name == name for name in METRICS)


def test_find_metric_refuses() -> None:
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        find_metric("cosin", True)
    with pytest.raises(DataError, match="metric top5 needs labels"):
        find_metric("top5", False)
    with pytest.raises(UsageError, match="cannot be imported"):
        find_metric("no_such_module_here:metric", True)


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    lines = [
        "import numpy as np",
        "def error(outputs, labels, reference): return np.abs(outputs['y'] - reference['y']).max(1)",
        "error.higher_is_better = False",
        "def labelled(outputs, labels, reference): return labels * 1.0",
        "labelled.needs_labels = True",
        "def one(outputs, labels, reference): return 1.0",
        "def broken(outputs, labels, reference): return outputs['nothing']",
        "number = 3",
    ]
    (tmp_path / "user_metric_module.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return "user_metric_module"


def test_a_users_function_from_the_current_folder(module) -> None:
    metric = find_metric(f"{module}:error", False)
    worse = metric.evidence({"y": LOGITS + 1}, None, {"y": LOGITS}, {})
    assert not metric.higher_is_better
    assert drop(metric, np.zeros((3, 1)), worse) == 1
    assert np.isinf(metric.evidence({"y": LOGITS * np.nan}, None, {"y": LOGITS}, {})).all()


def test_a_users_function_is_refused_in_words(module) -> None:
    with pytest.raises(DataError, match="needs labels"):
        find_metric(f"{module}:labelled", False)
    with pytest.raises(UsageError, match="not a function"):
        find_metric(f"{module}:number", False)
    for name, message in {"one": r"shape \(\) for 3 samples", "broken": "failed with KeyError"}.items():
        with pytest.raises(DataError, match=message):
            find_metric(f"{module}:{name}", False).evidence({"y": LOGITS}, None, {"y": LOGITS}, {})


def test_drop_has_one_direction() -> None:
    good, bad = np.ones((4, 1)), np.zeros((4, 1))
    assert drop(METRICS["top1"], good, bad) == 1
    assert drop(METRICS["top1"], bad, good) == -1
    assert drop(METRICS["mse"], bad, good) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 9), st.sampled_from(["top1", "mse", "sqnr"]))
def test_the_interval_is_seeded_and_holds_the_drop(n: int, seed: int, name: str) -> None:
    random = np.random.default_rng(seed)
    reference, other = random.random((n, 2)) + 1, random.random((n, 2)) + 1
    interval = drop_interval(METRICS[name], reference, other, 0.999, seed, 200)
    assert interval == drop_interval(METRICS[name], reference, other, 0.999, seed, 200)
    assert interval[0] <= drop(METRICS[name], reference, other) <= interval[1]


def test_the_interval_is_paired() -> None:
    reference = np.random.default_rng(0).random((50, 1)) * 100
    assert drop_interval(METRICS["top1"], reference, reference - 0.5, 0.95, 0) == pytest.approx((0.5, 0.5))


def test_the_interval_matches_the_normal_one_for_many_rows() -> None:
    values = np.random.default_rng(0).standard_normal((4000, 1))
    low, high = drop_interval(METRICS["mse"], np.zeros((4000, 1)), values, 0.95, 1)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_the_interval_of_one_row_knows_nothing() -> None:
    assert drop_interval(METRICS["top1"], np.ones((1, 1)), np.ones((1, 1)), 0.95, 0) == (-np.inf, np.inf)


def test_the_interval_of_a_rank_correlation() -> None:
    tokens, mask, gold = sentence_pairs()
    metric, feeds = METRICS["spearman-cosine"], {"attention_mask": mask}
    original = evidence("spearman-cosine", tokens, labels=gold, feeds=feeds)
    noisy = evidence("spearman-cosine", tokens + 0.3 * tokens[::-1], labels=gold, feeds=feeds)
    low, high = drop_interval(metric, original, noisy, 0.9, 0, 100)
    assert low < drop(metric, original, noisy) < high


def test_rows_must_be_paired() -> None:
    with pytest.raises(DataError, match="same samples"):
        drop(METRICS["top1"], np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(UsageError, match="confidence"):
        drop_interval(METRICS["top1"], np.ones((3, 1)), np.ones((3, 1)), 1.5, 0)
