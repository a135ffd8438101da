"""Options of the CUDA provider, and targets that have them."""

import pytest

from onnxopt.cli.common import target
from onnxopt.errors import UsageError
from onnxopt.provider_options import checked, read
from onnxopt.target import Target


def test_words_become_what_onnx_runtime_takes() -> None:
    words = ["use_tf32=no", "prefer_nhwc=True", "cudnn_conv_algo_search=heuristic", "gpu_mem_limit=2000000000"]
    assert read(words) == {
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "2000000000",
    }
    assert checked(read(words)) == read(words)


REFUSED = {
    "misspelt": ("use_tf23=0", "the CUDA provider has no such option; did you mean 'use_tf32'?"),
    "far from all": ("x=1", "the CUDA provider has no such option; there are arena_extend_strategy, "),
    "a flag that is none": ("use_tf32=maybe", "'maybe' is not possible; it takes 0 or 1"),
    "a number that is none": ("gpu_mem_limit=-1", "'-1' is not possible; it takes a number of bytes"),
    "another word": ("cudnn_conv_algo_search=BEST", "it takes EXHAUSTIVE, HEURISTIC, DEFAULT"),
    "no value": ("use_tf32", "write --provider-option name=value"),
    "the GPU": ("device_id=1", "write --device-id N"),
    "the graph": ("enable_cuda_graph=1", "write --cuda-graph"),
    "an address": ("user_compute_stream=140", "the CUDA provider has no such option"),
}


@pytest.mark.parametrize(("word", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_means_nothing_is_refused(word: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read([word])
    assert str(error.value).startswith(f"--provider-option {word.partition('=')[0]}")
    assert said in str(error.value)


def test_a_target_has_them() -> None:
    found = target(
        "cuda", 2, ["x=1x3"], provider_options=["use_tf32=0"], device_id=1, cuda_graph=True, require_gpu=True
    )
    options = {"use_tf32": "0"}
    assert found == Target(
        "cuda", 2, {"x": (1, 3)}, provider_options=options, device_id=1, cuda_graph=True, require_gpu=True
    )
    assert (found.on_gpu, found.is_here, Target().on_gpu) == (True, False, False)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"provider_options": {"use_tf32": "0"}}, "--provider-option"),
        ({"device_id": 1}, "--device-id"),
        ({"cuda_graph": True}, "--cuda-graph"),
        ({"require_gpu": True}, "--require-gpu"),
    ],
)
def test_what_is_for_the_gpu_is_refused_on_the_cpu(given: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=f"{word} is for the GPU: add --provider cuda"):
        Target("cpu", **given)  # type: ignore[arg-type]


def test_a_target_refuses_options_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="did you mean 'prefer_nhwc'"):
        Target("cuda", provider_options={"prefer_nwhc": "1"})
