"""The demo network, its data, and how they are made."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.models.demo import DemoFiles, demo_files
from onnxopt.runtime import Session
from onnxopt.target import Target

SHIPPED_BYTES = 1_500_000

# PyTorch's own exporter calls what PyTorch deprecates.
torch_exports = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")


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


def test_the_seed_gives_the_split() -> None:
    pytest.importorskip("sklearn")
    from onnxopt.models.digits import split

    labels = np.arange(1000) % 10
    first, again, other = split(labels, 0), split(labels, 0), split(labels, 1)
    for part, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert np.any(first[0] != other[0])
    assert sorted(np.concatenate(first)) == list(range(1000))
    for part in first:
        counts = np.bincount(labels[part])
        assert counts.max() - counts.min() <= 1


@pytest.mark.slow
def test_an_epoch_of_training_lowers_the_loss() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from onnxopt.models.digits import Samples, load
    from onnxopt.models.resnet_tiny import resnet_tiny
    from onnxopt.models.train import Settings, fit

    train = load().train
    few = Samples(train.image[:128], train.labels[:128])
    torch.manual_seed(0)
    first, second = fit(resnet_tiny(widths=(16, 16, 16), depths=(1, 1, 1)), few, few, Settings(epochs=2))
    assert second.loss < first.loss


@pytest.mark.slow
@torch_exports
def test_export_is_what_the_module_computes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from onnxopt.models.export import export
    from onnxopt.models.resnet_tiny import resnet_tiny

    torch.manual_seed(0)
    module = resnet_tiny(widths=(16, 16, 16), depths=(1, 1, 1)).eval()
    model = export(module, tmp_path / "tiny.onnx", {"image": torch.randn(3, 1, 32, 32)}, ["scores"])
    assert "BatchNormalization" in [node.op_type for node in model.graph.node]
    assert onnx.load(tmp_path / "tiny.onnx") == model


@pytest.mark.slow
@torch_exports
def test_export_refuses_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from onnxopt.errors import ModelError
    from onnxopt.models import export

    monkeypatch.setattr(export, "evaluate", lambda model, feeds: [feeds["x"] + 1e-2])
    with pytest.raises(ModelError, match="wrong at output 'y', batch 2"):
        export.export(torch.nn.ReLU().eval(), tmp_path / "relu.onnx", {"x": torch.ones(2, 3)}, ["y"])
    assert not (tmp_path / "relu.onnx").exists()
