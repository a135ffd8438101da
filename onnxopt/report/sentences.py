"""The verdict in one sentence: words and numbers, honest where nothing was measured or nothing can be told apart."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.report.numbers import Content, Number, number

Sentence = Sequence[str | Number]

SHARES = {"top1": "accuracy", "top5": "top-5 accuracy", "agreement": "agreement with the original"}
"""Metrics that are shares of samples: their differences are told in points."""
SAME_SIZE = 0.005
"""A share of the file that nobody calls smaller."""


def text(sentence: Sentence) -> str:
    """The sentence without its numbers' places."""
    return "".join(map(str, sentence))


def verdict(content: Content) -> Sentence:
    """What the result is worth, in one sentence."""
    if content["kept_original"]:
        return [f"Nothing could be improved: the original is kept{_why_not(content)}."]
    parts = [speed(content), smaller(content), accuracy(content)]
    words = [word for place, part in enumerate(parts) for word in (*((", ",) if place else ()), *part)]
    first = str(words[0])
    if isinstance(words[0], str):
        words[0] = first[:1].upper() + first[1:]
    return [*words, "."]


def speed(content: Content) -> Sentence:
    """How fast, with the interval of the ratio."""
    if content["speed"] is None:
        return ["speed not measured"]
    ratio, low, high = (number(content, "times", "speed", name) for name in ("ratio", "low", "high"))
    if content["speed"]["verdict"] == "faster":
        return [ratio, " times as fast [", low, ", ", high, "]"]
    if content["speed"]["verdict"] == "slower":
        longer, least, most = (number(content, "times", "ratios", name) for name in ("time", "time_low", "time_high"))
        return ["slower: a run takes ", longer, " times as long [", least, ", ", most, "]"]
    return ["no significant difference in speed (", ratio, " times as fast [", low, ", ", high, "])"]


def smaller(content: Content) -> Sentence:
    """What is left of the file."""
    share = number(content, "percent", "ratios", "bytes")
    if share.value is None or abs(share.value - 1) < SAME_SIZE:
        return ["about the same size"]
    return [share, " of the size"]


def accuracy(content: Content) -> Sentence:
    """How much worse or better on held-out samples, with the interval of the difference."""
    found = content["accuracy"]
    if found is None:
        why = "the run was interrupted" if content["ended"] == "interrupted" else "there were no data"
        return [f"accuracy not measured ({why})"]
    name, drop = found["metric"], found["drop"]
    if drop is None:
        return [f"{name} was not finite"]
    unit = "points" if name in SHARES else "plain"
    worse = drop >= 0
    first, last = ("low", "high") if worse else ("high", "low")
    form = f"signed {unit}" if worse else f"gained {unit}"
    low, high = (number(content, form, "accuracy", end) for end in (first, last))
    samples = number(content, "count", "accuracy", "samples")
    by = number(content, unit, "accuracy", "drop")
    what, points = SHARES.get(name, name), " points" if unit == "points" else ""
    many = f" held-out sample{'' if found['samples'] == 1 else 's'}"
    change: Sentence = [" unchanged"] if drop == 0 else [" ", by, points, f" {_direction(content, worse)}"]
    return [what, *change, " [", low, ", ", high, "] on ", samples, many]


def _direction(content: Content, worse: bool) -> str:
    """A larger error is worse; a lower accuracy is."""
    found = content["accuracy"]
    if found["metric"] in SHARES or (found["before"] > found["after"]) == worse:
        return "lower" if worse else "higher"
    return "higher, which is worse" if worse else "lower, which is better"


def _why_not(content: Content) -> str:
    """What stood in the way, in a few words."""
    tried = [step for step in content["steps"] if step["outcome"] in ("refused", "undone", "failed")]
    if not tried:
        return ""
    missed = sum(step["drop"] is not None and not step["drop"]["passed"] for step in tried)
    others = len(tried) - missed
    parts = [f"{missed} too inaccurate"] * bool(missed) + [f"{others} that did not pay or did not work"] * bool(others)
    return f" (of what was tried, {' and '.join(parts)})"
