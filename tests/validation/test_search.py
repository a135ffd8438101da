"""Search: which of many changes make a test fail."""

import math
from collections.abc import Collection, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.validation.search import Counted, explain, minimal

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=200, database=None)


def counted(culprits: Sequence[Collection[int]], most: int = 10_000) -> Counted[int]:
    """Fails where all changes of one of the groups are made."""
    return Counted(lambda made: any(made >= set(group) for group in culprits), most)


@EXAMPLES
@given(st.integers(1, 60), st.data())
def test_each_culprit_is_found_and_nothing_else(size: int, data: st.DataObject) -> None:
    culprits = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=5))
    groups, complete = explain(range(size), counted([{one} for one in culprits]))
    assert complete
    assert {one for group in groups for one in group} == culprits
    assert all(len(group) == 1 for group in groups)


@EXAMPLES
@given(st.integers(2, 60), st.data())
def test_changes_that_only_fail_together_are_one_group(size: int, data: st.DataObject) -> None:
    together = data.draw(st.sets(st.integers(0, size - 1), min_size=2, max_size=5))
    groups, complete = explain(range(size), counted([together]))
    assert complete
    assert [set(group) for group in groups] == [together]


@EXAMPLES
@given(st.sets(st.sets(st.integers(0, 8), min_size=1).map(frozenset), min_size=1, max_size=4), st.integers(0, 8))
def test_what_is_found_is_minimal_also_where_a_change_hides_others(groups: set[frozenset[int]], hider: int) -> None:
    def test(made: frozenset[int]) -> bool:
        return any(made >= group for group in groups) and (hider not in made or len(made) > 7)

    fails = Counted(test, 10_000)
    if not fails(range(9)):
        return
    found = minimal(range(9), fails)
    assert fails(found)
    assert not any(fails([one for one in found if one != left_out]) for left_out in found)


def test_tests_are_few() -> None:
    size, culprits = 4096, {3, 1000, 4095}
    fails = counted([{one} for one in culprits])
    groups, _ = explain(range(size), fails)
    assert {one for group in groups for one in group} == culprits
    assert fails.runs <= len(culprits) * (2 * math.log2(size) + 3) + 2


def test_tests_are_few_where_changes_fail_together() -> None:
    size, together = 4096, {5, 77, 2048, 4000}
    fails = counted([together])
    groups, _ = explain(range(size), fails)
    assert set(groups[0]) == together
    assert fails.runs <= len(together) * (2 * math.log2(size) + 3) + 3 * len(together) ** 2


def test_the_likeliest_first_is_found_at_once() -> None:
    fails = counted([{0}])
    assert explain(range(1000), fails) == ([[0]], True)
    assert fails.runs <= 4


def test_when_tests_are_used_up_what_was_found_stays() -> None:
    groups, complete = explain(range(100), counted([{0}, {99}], most=6))
    assert groups == [[0]]
    assert not complete


def test_no_test_is_made_twice() -> None:
    seen = []
    fails = Counted(lambda made: bool(seen.append(made)) or 3 in made, 100)
    explain(range(10), fails)
    assert len(seen) == len(set(seen)) == fails.runs
