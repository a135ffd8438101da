"""The demo network, its data, and how they are made."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.models.demo import DemoFiles, demo_files
from onnxopt.runtime import Session
from onnxopt.target import Target

SHIPPED_BYTES = 1_500_000


@pytest.fixture(scope="module")
def demo() -> DemoFiles:
    return demo_files()


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        assert sorted(data.files) == ["image", "labels"]
        return data["image"], data["labels"]


def test_demo_is_small(demo: DemoFiles) -> None:
    assert sum(path.stat().st_size for path in (demo.model, demo.data, demo.eval_data)) <= SHIPPED_BYTES


def test_demo_data_have_the_inputs_shape(demo: DemoFiles) -> None:
    for path, samples in ((demo.data, 128), (demo.eval_data, 512)):
        image, labels = arrays(path)
        assert (image.shape, image.dtype) == ((samples, 1, 32, 32), np.float32)
        assert (labels.shape, labels.dtype) == ((samples,), np.int64)
        assert set(labels) == set(range(10))


def test_demo_model_has_work_for_the_passes_and_no_paths(demo: DemoFiles) -> None:
    model = onnx.load(demo.model)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == operators.count("BatchNormalization") == 11
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "scores"]
    assert b"site-packages" not in demo.model.read_bytes()


def test_demo_reads_the_digits(demo: DemoFiles) -> None:
    pytest.importorskip("onnxruntime")
    image, labels = arrays(demo.eval_data)
    scores = Session(demo.model, Target(threads=1)).run({"image": image})["scores"]
    assert (scores.argmax(axis=1) == labels).mean() >= 0.985


def test_shipped_samples_are_those_not_trained_on(demo: DemoFiles) -> None:
    pytest.importorskip("sklearn")
    from onnxopt.models import digits

    data = digits.load()
    for part, path in ((data.calibration, demo.data), (data.held_out, demo.eval_data)):
        image, labels = arrays(path)
        np.testing.assert_allclose(part.image, image, rtol=1e-6)
        np.testing.assert_array_equal(part.labels, labels)
