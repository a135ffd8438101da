"""Orders and losses that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxopt.passes.prune import store
from onnxopt.passes.prune.groups import find
from onnxopt.passes.prune.widths import Prunable
from onnxopt.testing import parse

NET = """g (float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float[8,3,1,1] w, float[8] b, float[4,8,1,1] v>
    { h = Conv(x, w, b)  r = Relu(h)  y = Conv(r, v) }"""


@pytest.fixture
def prunable() -> Prunable:
    (group,) = find(parse(NET))
    order = group.classes[[3, 1, 0]]
    return Prunable(group, order, np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.1, 0.3, 0.6]), (0, 1, 3))


def test_what_was_kept_is_found_again(prunable: Prunable, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    store.keep(path, [prunable])
    (group,) = find(parse(NET))
    found = store.load(path, [group], {group.name: (0, 1, 3)})
    assert found is not None
    np.testing.assert_array_equal(found[0].order, prunable.order)
    np.testing.assert_array_equal(found[0].loss, prunable.loss)


@pytest.mark.parametrize("content", ["", "{}", '{"h": {"order": [0, 0, 1]}}', '{"h": 3}', "[]"])
def test_what_is_damaged_or_of_others_is_not_used(prunable: Prunable, content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert store.load(path, [prunable.group], {prunable.group.name: (0, 1, 3)}) is None


def test_other_counts_are_found_anew(prunable: Prunable, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.keep(path, [prunable])
    assert store.load(path, [prunable.group], {prunable.group.name: (0, 1, 3, 4)}) is None


def test_a_folder_that_cannot_be_written_is_no_error(prunable: Prunable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store.keep(tmp_path / "file" / "a.json", [prunable])
