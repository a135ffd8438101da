"""Networks for images have the parameters of the public ones; what they compute, public_names.py compares."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).with_name("public_names.py")
TABLE: dict[str, dict[str, Any]] = json.loads(SCRIPT.with_suffix(".json").read_text())
ours = run_path(str(SCRIPT))
NETWORKS = ours["NETWORKS"]

each_network = pytest.mark.parametrize("name", NETWORKS)


def test_every_network_is_in_the_table() -> None:
    assert set(NETWORKS) <= set(TABLE)


@each_network
def test_public_weights_fit(name: str) -> None:
    public = dict(TABLE[name])
    source = public.pop("source")
    with torch.device("meta"):
        module = NETWORKS[name]()
    found = ours["summary"](ours["shapes"](module))
    assert found == public, (
        f"a state dict of {source} does not fit {name}: other names, or other shapes. "
        f"`python tests/models/public_names.py {name}` prints those that only one of them has"
    )


@each_network
def test_the_docstring_counts_the_parameters(name: str) -> None:
    build = NETWORKS[name]
    assert f"{TABLE[name]['parameters']:,}" in getattr(build, "func", build).__doc__


@each_network
def test_scores_of_each_class(name: str) -> None:
    size = 32 if name.endswith("_cifar") else 224
    with torch.device("meta"):
        scores = NETWORKS[name](classes=7)(torch.empty(2, 3, size, size))
    assert scores.shape == ((2, 7, size, size) if name == "unet" else (2, 7))


def test_a_differing_network_is_told_apart() -> None:
    with torch.device("meta"):
        module = NETWORKS["squeezenet1_1"](classes=999)
    public = {key: value for key, value in TABLE["squeezenet1_1"].items() if key != "source"}
    assert ours["summary"](ours["shapes"](module)) != public
