"""The clock, under a clock that is not one."""

from __future__ import annotations

import gc
import itertools
import json
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from onnxopt import benchmark, load
from onnxopt.benchmark import Comparison, Timing, Verdict, compare, compare_loads, interval, judge


class World:
    """Time that passes only when a contender runs; ``ran`` remembers who did."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.ran = ""
        self.random = np.random.default_rng(seed)
        self.spell = 0.0

    def clock(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float, *, noise: float = 0.0, drift: float = 0.0) -> Callable[[], None]:
        """One that takes ``seconds``, times log-normal noise, times a drift per second of time."""

        def run() -> None:
            self.ran += name
            own = noise * self.random.standard_normal()
            self.now += seconds * math.exp(own + self.spell + drift * self.now)

        return run

    def loaded(self, run: Callable[[], None], *, rho: float = 0.9, scale: float = 0.05) -> Callable[[], None]:
        """The same, in spells of load that both feel: an AR(1) process in the log of time."""

        def slowed() -> None:
            self.spell = rho * self.spell + scale * self.random.standard_normal()
            run()

        return slowed


def timed(world: World, a: Callable[[], None], b: Callable[[], None], **limits: object) -> Comparison:
    return compare(a, b, clock=world.clock, **{"min_seconds": 0.1, **limits})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "cpu_seconds", lambda: (0.0, 0.0))
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow here, and without effect on a false clock


def after_warm_up(world: World, result: Comparison) -> str:
    return world.ran[-2 * len(result.a.seconds) :]


def test_iterations_alternate_a_b_b_a() -> None:
    world = World()
    result = timed(world, world.contender("a", 0.01), world.contender("b", 0.02))
    assert set(world.ran[: world.ran.index("bb")]) == {"a", "b"}
    order = after_warm_up(world, result)
    assert order == "abba" * (len(order) // 4)


def test_short_iterations_are_repeated_alike_within_a_slot() -> None:
    world = World()
    result = timed(world, world.contender("a", 12e-6), world.contender("b", 25e-6), min_seconds=0.01)
    order = world.ran[-36 * (len(result.a.seconds) // 2) :]
    assert order == ("a" * 9 + "b" * 18 + "a" * 9) * (len(order) // 36)
    assert result.a.median == pytest.approx(12e-6)


@pytest.mark.parametrize(
    ("seconds", "pairs"),
    [(0.001, 1500), (0.04, 38), (0.06, 76), (0.5, 30)],
    ids=["3 s of a fast model", "3 s, whole quads", "9 s of a slow model", "30 pairs of a very slow model"],
)
def test_at_least_30_pairs_and_3_or_9_seconds(seconds: float, pairs: int) -> None:
    world = World()
    result = compare(world.contender("a", seconds), world.contender("b", seconds), clock=world.clock)
    assert len(result.a.seconds) == len(result.b.seconds)
    assert len(result.a.seconds) == pytest.approx(pairs, abs=2)
    assert len(result.a.seconds) >= 30
    assert result.warnings == ()


def test_max_seconds_caps_with_a_warning() -> None:
    world = World()
    result = timed(world, world.contender("a", 0.1), world.contender("b", 0.1), max_seconds=4.0)
    assert 4.0 <= world.now < 4.5
    assert any("stopped after" in warning for warning in result.warnings)


def test_too_few_pairs_give_no_verdict() -> None:
    world = World()
    result = timed(world, world.contender("a", 2.0), world.contender("b", 1.0), max_seconds=1.0)
    assert result.verdict is Verdict.NOT_SIGNIFICANT
    assert result.ratio == pytest.approx(2.0)
    assert any("no verdict" in warning for warning in result.warnings)


def test_stop_is_asked_between_quads() -> None:
    world = World()
    asked: list[str] = []

    def stop() -> bool:
        asked.append(world.ran)
        return len(asked) == 7

    result = timed(world, world.contender("a", 0.01), world.contender("b", 0.01), stop=stop)
    assert len(result.a.seconds) == 14
    assert {len(late) - len(early) for early, late in itertools.pairwise(asked)} == {4}
    assert any("stopped after 14 pairs" in warning for warning in result.warnings)


VERDICTS = {
    "twice as fast": (0.02, 0.01, 0.1, Verdict.FASTER),
    "half as fast": (0.01, 0.02, 0.1, Verdict.SLOWER),
    "equal, no noise": (0.01, 0.01, 0.0, Verdict.NOT_SIGNIFICANT),
    "equal, heavy noise": (0.01, 0.01, 0.8, Verdict.NOT_SIGNIFICANT),
    "2 % faster for sure, under the floor": (0.0102, 0.01, 0.0, Verdict.NOT_SIGNIFICANT),
    "10 % faster": (0.011, 0.01, 0.03, Verdict.FASTER),
}


@pytest.mark.parametrize(("a", "b", "noise", "verdict"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdict(a: float, b: float, noise: float, verdict: Verdict) -> None:
    world = World()
    first, second = world.contender("a", a, noise=noise), world.contender("b", b, noise=noise)
    result = timed(world, first, second, min_seconds=1.0)
    assert result.verdict is verdict
    assert result.low <= result.ratio <= result.high
    assert result.ratio == pytest.approx(a / b, rel=noise + 1e-6)


def test_a_clock_too_coarse_gives_a_warning_not_a_crash() -> None:
    world = World()
    result = compare(
        world.contender("a", 1e-5),
        world.contender("b", 1e-5),
        min_seconds=0.4,
        clock=lambda: world.now // 0.05 * 0.05,
    )
    assert result.verdict is Verdict.NOT_SIGNIFICANT
    assert any("too coarse" in warning for warning in result.warnings)


def test_the_whole_interval_must_be_beyond_the_floor() -> None:
    assert judge(1.031, 1.2, 0.03) is Verdict.FASTER
    assert judge(1.029, 1.2, 0.03) is Verdict.NOT_SIGNIFICANT
    assert judge(0.5, 0.97, 0.03) is Verdict.SLOWER
    assert judge(0.5, 0.98, 0.03) is Verdict.NOT_SIGNIFICANT


def test_exchanging_the_contenders_inverts_the_ratio() -> None:
    quads = np.exp(np.random.default_rng(3).normal(0, 0.2, (50, 4)))
    ratio, low, high = interval(quads)
    swapped = interval(quads[:, [1, 0, 3, 2]])
    assert np.allclose(swapped, (1 / ratio, 1 / high, 1 / low))


def test_self_comparisons_under_correlated_noise_and_drift_are_rarely_significant() -> None:
    verdicts = []
    for seed in range(200):
        world = World(seed)
        a, b = (world.loaded(world.contender(name, 0.005, noise=0.03, drift=0.05)) for name in "ab")
        verdicts.append(timed(world, a, b, min_seconds=0.3).verdict)
    significant = sum(verdict is not Verdict.NOT_SIGNIFICANT for verdict in verdicts)
    assert significant <= 0.05 * len(verdicts)


def test_drift_common_to_both_cancels() -> None:
    world = World()
    result = timed(world, world.contender("a", 0.012, drift=0.3), world.contender("b", 0.010, drift=0.3), min_seconds=3)
    assert result.a.seconds[-1] > 2 * result.a.seconds[0]
    assert result.ratio == pytest.approx(1.2, rel=1e-3)


def test_what_the_order_in_a_pair_does_cancels() -> None:
    second_is_colder = np.tile([1.0, 1.5, 1.0, 1.5], (40, 1))
    assert interval(second_is_colder) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("quads", [15, 60])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(quads: int) -> None:
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        noise = 0.1 * random.standard_t(3, (quads, 4))
        times = 0.01 * np.exp(noise + np.log([1.3, 1.0, 1.0, 1.3]))
        _, low, high = interval(times, 0.95, seed)
        covered += low <= 1.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    quads = np.exp(np.random.default_rng(0).normal(0, 0.1, (300, 4)))
    assert interval(quads, seed=1) == interval(quads, seed=1)
    assert interval(quads, seed=1) != interval(quads, seed=2)
    _, low, high = interval(quads, 0.99)
    assert low < interval(quads, 0.9)[1] < interval(quads, 0.9)[2] < high


def test_json_round_trip() -> None:
    world = World()
    result = timed(world, world.contender("a", 0.02), world.contender("b", 0.01))
    words = result.to_dict()
    assert json.loads(json.dumps(words)) == words
    assert words["verdict"] == "faster"
    assert words["a"] == pytest.approx({"iterations": 30, "median": 0.02, "p5": 0.02, "p95": 0.02})
    assert json.loads(json.dumps(result.to_dict(raw=True)))["b"]["seconds"] == list(result.b.seconds)
    assert result.summary() == "faster: 2.00x [2.00, 2.00], 20 to 10 ms"


def test_percentiles_of_a_timing() -> None:
    timing = Timing(tuple(float(second) for second in range(101)))
    assert (timing.median, timing.percentile(5), timing.percentile(95)) == (50, 5, 95)


def test_foreign_load_is_what_the_machine_did_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(load, "cpu_seconds", lambda: (1.4 * world.now, world.now))
    result = timed(world, world.contender("a", 0.01), world.contender("b", 0.01))
    assert result.environment.foreign_load == pytest.approx(0.4)
    assert any("40% of a CPU" in warning for warning in result.warnings)


def test_more_threads_ask_for_more_time_and_claim_less() -> None:
    world = World()
    result = timed(world, world.contender("a", 0.011), world.contender("b", 0.01), threads=2, slow_seconds=2.0)
    assert world.now > 2.0
    assert result.verdict is Verdict.NOT_SIGNIFICANT
    assert any("one thread" in warning for warning in result.warnings)


def test_interruptions_and_errors_pass_through_and_leave_the_collector_on() -> None:
    def interrupted() -> Iterator[None]:
        yield from [None] * 50
        raise KeyboardInterrupt

    world, steps = World(), interrupted()
    with pytest.raises(KeyboardInterrupt):
        timed(world, world.contender("a", 0.01), lambda: next(steps))
    assert gc.isenabled()


def test_the_collector_rests_meanwhile() -> None:
    world, seen = World(), set[bool]()
    run = world.contender("a", 0.01)
    timed(world, run, lambda: (run(), seen.add(gc.isenabled())))  # type: ignore[arg-type, func-returns-value]
    assert seen == {False}


def test_the_real_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    result = compare(lambda: None, lambda: None, min_pairs=2, min_seconds=0.0)
    assert result.environment.cores >= 1
    assert result.environment.processor
    assert result.environment.foreign_load >= 0


def loads(world: World, seconds: float, **also: float) -> Callable[[], Callable[[], None]]:
    """A contender whose loads differ by ``spread`` (of the logarithm), and take ``loading`` seconds."""

    def load() -> Callable[[], None]:
        world.now += also.get("loading", 0.0)
        factor = math.exp(also.get("spread", 0.0) * world.random.standard_normal())
        return world.contender("a", seconds * factor, noise=also.get("noise", 0.0))

    return load


def test_loads_differ_and_the_interval_says_so() -> None:
    """b is twice as fast in every other load, and half as fast in the others: no verdict."""
    world, speeds = World(), itertools.cycle([0.5, 2.0])

    def load() -> Callable[[], None]:
        return world.contender("b", 0.01 * next(speeds))

    result = compare_loads(loads(world, 0.01), load, clock=world.clock)
    assert result.verdict is Verdict.NOT_SIGNIFICANT
    assert result.low < 0.9 < 1.1 < result.high
    assert result.loads > 3 * benchmark.LOADS


def test_loads_that_agree_give_a_verdict_at_once() -> None:
    world = World()
    result = compare_loads(loads(world, 0.02), loads(world, 0.01), clock=world.clock)
    assert result.verdict is Verdict.FASTER
    assert result.ratio == pytest.approx(2)
    assert sum(result.a.seconds) + sum(result.b.seconds) >= benchmark.LOADS_SECONDS
    assert world.now < benchmark.PATIENCE / 2
    assert result.warnings == ()


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.035], ids=["fits the caches", "between", "64 MB of weights"])
def test_self_comparisons_of_loads_are_rarely_significant(spread: float) -> None:
    found = []
    for seed in range(300):
        world = World(seed)
        both = [loads(world, 0.004, spread=spread, noise=0.05, loading=0.1) for _ in range(2)]
        found.append(compare_loads(*both, min_seconds=0.4, patience=2.0, clock=world.clock))
    called = sum(result.verdict is not Verdict.NOT_SIGNIFICANT for result in found)
    assert called <= 0.075 * len(found)  # a share of 5 % lies under this in 97.5 % of all series of 300
    covered = sum(result.low <= 1 <= result.high for result in found) / len(found)
    assert 0.88 <= covered <= 0.99


def test_three_percent_are_found_in_ten_seconds_where_loads_differ_by_as_much() -> None:
    found = []
    for seed in range(100):
        world = World(seed)
        a, b = (loads(world, time, spread=0.035 / math.sqrt(2), noise=0.02, loading=0.1) for time in (0.00412, 0.004))
        found.append(compare_loads(a, b, clock=world.clock).verdict)
        assert world.now < benchmark.PATIENCE + 1
    assert found.count(Verdict.FASTER) >= 80
    assert Verdict.SLOWER not in found


def test_of_two_pairs_of_loads_one_is_the_other_way_round_in_an_order_that_is_drawn() -> None:
    world, order = World(), list[str]()

    def load(name: str) -> Callable[[], None]:
        order.append(name)
        return world.contender(name, 0.01)

    found = compare_loads(lambda: load("a"), lambda: load("b"), clock=world.clock)
    pairs = [first + second for first, second in zip(order[::2], order[1::2], strict=True)]
    fours = {first + second for first, second in zip(pairs[::2], pairs[1::2], strict=False)}
    assert fours == {"abba", "baab"}
    assert found.loads == len(pairs)


def test_a_contender_is_itself_whichever_comes_first() -> None:
    """Of a pair the second is 3 % slower, as where it finds the other's data in the caches."""
    world, last = World(), [""]

    def load(name: str, seconds: float) -> Callable[[], Callable[[], None]]:
        def run() -> None:
            world.now += seconds * (1.0 if last[0] == name else 1.03)
            last[0] = name

        return lambda: run

    found = compare_loads(load("a", 0.012), load("b", 0.010), clock=world.clock)
    assert found.ratio == pytest.approx(1.2, rel=1e-3)
    assert found.low <= 1.2 <= found.high


def test_a_comparison_of_loads_goes_on_until_it_is_settled() -> None:
    world, asked = World(), list[benchmark.Interval]()

    def settled(found: benchmark.Interval) -> bool:
        asked.append(found)
        return len(asked) == 4

    result = compare_loads(loads(world, 0.01), loads(world, 0.01), min_seconds=0.0, settled=settled, clock=world.clock)
    assert result.loads == benchmark.LOADS + 3


def test_max_seconds_ends_a_comparison_of_loads_with_a_warning() -> None:
    world = World()
    result = compare_loads(loads(world, 0.5), loads(world, 0.5), max_seconds=5.0, clock=world.clock)
    assert world.now < 7
    assert any("6 loads" in warning for warning in result.warnings)
    assert any("no verdict" in warning for warning in result.warnings) == (result.loads < benchmark.MIN_LOADS)


def test_one_load_has_no_interval() -> None:
    world = World()
    result = compare_loads(loads(world, 0.2), loads(world, 0.1), max_seconds=0.1, clock=world.clock)
    assert (result.loads, result.verdict) == (1, Verdict.NOT_SIGNIFICANT)
    assert (result.low, result.high) == (0.0, math.inf)
    assert result.to_dict()["high"] is None
