"""Which of many changes make a test fail, in few tests.

``minimal`` first finds the shortest prefix of the changes that fails: its last change is needed. With that one set,
again, until those that were found fail alone: two tests for each doubling of the place of each, as in QuickXplain's
division (Junker, 2004). Then delta debugging (ddmin: Zeller and Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", 2002) makes sure that none of them can be left out, also where changes hide each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Spent(Exception):
    """There were as many tests as are allowed."""


class Counted(Generic[T]):
    """A test that is not made twice for the same changes, and not more often than allowed."""

    def __init__(self, test: Callable[[frozenset[T]], bool], most: int) -> None:
        """Wrap ``test``, which says whether exactly these changes fail."""
        self._test, self._most = test, most
        self._known: dict[frozenset[T], bool] = {}
        self.runs = 0

    def __call__(self, changes: Sequence[T]) -> bool:
        """Whether these changes fail.

        Raises:
            Spent: where a new test would be one too many.
        """
        key = frozenset(changes)
        if key not in self._known:
            if self.runs >= self._most:
                raise Spent
            self.runs += 1
            self._known[key] = self._test(key)
        return self._known[key]


def explain(changes: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> tuple[list[list[T]], bool]:
    """Minimal sets of changes, each of which fails alone, so that without all of them nothing fails.

    Args:
        changes: all of them, which fail together; the likeliest first saves tests.
        fails: a test, such as ``Counted``.

    Returns:
        The sets, and whether they are all: False where the tests were used up.
    """
    rest, found = list(changes), []
    try:
        while rest and fails(rest):
            group = minimal(rest, fails)
            if not group:
                break
            found.append(group)
            rest = [change for change in rest if change not in group]
    except Spent:
        return found, False
    return found, True


def minimal(changes: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A set of changes that fails, and no longer does without any one of them."""
    rest, found = list(changes), list[T]()
    while not fails(found):
        size = _shortest(rest, found, fails)
        if not size:
            break
        found.append(rest[size - 1])
        rest = rest[: size - 1]
    return _ddmin(found, fails)


def _shortest(rest: Sequence[T], found: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> int:
    """The length of the shortest prefix of ``rest`` that fails together with ``found``; 0 where none does."""
    passing, failing = 0, 1
    while failing < len(rest) and not fails([*found, *rest[:failing]]):
        passing, failing = failing, 2 * failing
    failing = min(failing, len(rest))
    if failing == len(rest) and not fails([*found, *rest]):
        return 0
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if fails([*found, *rest[:middle]]):
            failing = middle
        else:
            passing = middle
    return failing


def _ddmin(changes: list[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Leave out parts, then complements of parts, in ever smaller parts."""
    count = 2
    while len(changes) > 1:
        parts = [changes[i * len(changes) // count : (i + 1) * len(changes) // count] for i in range(count)]
        smaller = next((part for part in parts if len(part) < len(changes) and fails(part)), None)
        if smaller is not None:
            changes, count = smaller, 2
            continue
        others = ([change for change in changes if change not in part] for part in parts)
        smaller = next((other for other in others if len(other) < len(changes) and fails(other)), None)
        if smaller is not None:
            changes, count = smaller, max(count - 1, 2)
        elif count < len(changes):
            count = min(len(changes), 2 * count)
        else:
            break
    return changes
