"""Training: what each setting does, and that an epoch of it teaches."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from onnxopt.errors import UsageError  # noqa: E402
from onnxopt.models import train  # noqa: E402
from onnxopt.models.digits import Digits, Samples, load, split  # noqa: E402
from onnxopt.models.resnet_tiny import resnet_tiny  # noqa: E402
from onnxopt.models.training import augment, optimizers, schedules  # noqa: E402
from onnxopt.models.training.loop import fit  # noqa: E402
from onnxopt.models.training.settings import Settings  # noqa: E402

FEW = {"epochs": 1, "batch": 8, "subset": 0.1}
SMALL = {"widths": (16, 16, 16), "depths": (1, 1, 1)}
SWITCH = "adam:0.8,sgd:0.2"

# PyTorch's own exporter calls what PyTorch deprecates.
torch_exports = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load()


@pytest.fixture
def image() -> torch.Tensor:
    """Two noisy images, two channels, higher than wide."""
    return torch.rand(2, 2, 12, 8, generator=torch.Generator().manual_seed(0))


def tiny(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return resnet_tiny(**SMALL)


def loss(module: torch.nn.Module, samples: Samples) -> float:
    """Cross-entropy with the statistics of this batch: those of a few steps are not worth much."""
    with torch.no_grad():
        scores = module.train()(torch.from_numpy(samples.image))
    return float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(samples.labels)))


def train_tiny(digits: Digits, seed: int = 0) -> dict[str, torch.Tensor]:
    module = tiny(seed)
    few = digits.held_out.subset(0.1, 0)
    (_,) = fit(module, digits.train, few, Settings(seed=seed, crop=0.1, **FEW))
    return module.state_dict()


@pytest.mark.parametrize("optimizer", [*optimizers.OPTIMIZERS, SWITCH])
def test_an_epoch_lowers_the_loss(digits: Digits, optimizer: str) -> None:
    module, few = tiny(), digits.train.subset(FEW["subset"], 0)
    before = loss(module, few)
    (epoch,) = fit(module, digits.train, few, Settings(optimizer=optimizer, **FEW))
    assert loss(module, few) < before - 0.05
    assert epoch.optimizer == optimizer.split(",")[-1].split(":")[0]


def test_an_epoch_of_the_demo_network_lowers_the_loss(digits: Digits) -> None:
    torch.manual_seed(0)
    module, few = resnet_tiny(), digits.train.subset(0.1, 0)
    before = loss(module, few)
    list(fit(module, few, few, Settings(epochs=1)))
    assert loss(module, few) < before - 0.1


def test_the_same_seed_gives_the_same_weights(digits: Digits) -> None:
    first, again, other = train_tiny(digits), train_tiny(digits), train_tiny(digits, seed=1)
    for name, weights in first.items():
        assert torch.equal(weights, again[name])
    assert not torch.equal(first["scores.weight"], other["scores.weight"])


def test_a_loss_that_explodes_is_a_sentence(digits: Digits) -> None:
    with pytest.raises(UsageError, match="the loss is nan in epoch 1: take a lower --learning-rate"):
        list(fit(tiny(), digits.train, digits.train, Settings(optimizer="sgd", learning_rate=1e30, **FEW)))


def test_the_optimizer_switches_at_its_step() -> None:
    weights, factors = [torch.nn.Parameter(torch.ones(2))], [1.0, 0.5] * 5
    seen = []
    for phase, optimizer in optimizers.plan(weights, optimizers.parse("adam:0.8@0.01,sgd:0.2"), factors):
        seen.append((type(optimizer).__name__, phase.optimizer, optimizer.param_groups[0]["lr"]))
        if seen[-1][0] == "SGD":
            assert not optimizer.state
        else:
            weights[0].sum().backward()
            optimizer.step()
    assert seen == [("Adam", "adam", 0.01), ("Adam", "adam", 0.005)] * 4 + [("SGD", "sgd", 0.1), ("SGD", "sgd", 0.05)]


def test_shares_are_scaled_and_may_be_left_out() -> None:
    shares = [phase.share for phase in optimizers.parse("adam:4, sgd:1")]
    assert shares == [phase.share for phase in optimizers.parse(SWITCH)] == [0.8, 0.2]
    assert [phase.share for phase in optimizers.parse("adam,sgd")] == [0.5, 0.5]
    assert optimizers.split(optimizers.parse("adam,nesterov,sgd:2"), 8) == [range(2), range(2, 4), range(4, 8)]


def test_a_given_rate_and_decay_go_before_the_optimizers_own() -> None:
    adam, sgd = optimizers.parse("adam,sgd@0.3", learning_rate=0.02, weight_decay=0.1)
    assert (adam.learning_rate, adam.weight_decay) == (0.02, 0.1)
    assert (sgd.learning_rate, sgd.weight_decay) == (0.3, 0.1)
    (adamw,) = optimizers.parse("adamw")
    assert (adamw.learning_rate, adamw.weight_decay) == (2e-3, 0.05)
    (nesterov,) = (optimizer for _, optimizer in optimizers.plan([torch.ones(1)], optimizers.parse("nesterov"), [1.0]))
    assert nesterov.defaults["nesterov"]


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [
        ("constant", 1, 1, 1),
        ("cosine", 1, 0.5, 0),
        ("linear", 1, 0.5, 0),
        ("step", 1, 0.1, 0.01),
        ("one-cycle", 0.04, 0.8117, 4e-6),
    ],
)
def test_a_schedule_at_its_start_middle_and_end(schedule: str, start: float, middle: float, end: float) -> None:
    factors = [schedules.SCHEDULES[schedule](progress) for progress in (0, 0.5, 1)]
    assert factors == pytest.approx([start, middle, end], abs=1e-4 if middle == 0.8117 else 1e-12, rel=1e-12)


def test_one_cycle_is_highest_after_three_tenths() -> None:
    factors = [schedules.one_cycle(step / 100) for step in range(101)]
    assert factors.index(max(factors)) == 30
    assert max(factors) == pytest.approx(1)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_rises_to_one_and_the_schedule_has_the_rest(schedule: str) -> None:
    factors = [schedules.factor(schedule, 0.2, step, 20) for step in range(20)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < earlier for earlier, later in pairwise(factors[4:]))
    assert factors[4:] == [schedules.factor(schedule, 0, step, 16) for step in range(16)]


def test_no_amount_changes_nothing(image: torch.Tensor) -> None:
    zero = torch.zeros(2)
    assert augment.augment(image) is image
    for matrix in (augment.turn(zero, 12, 8), augment.move(zero, zero, 12, 8), augment.window(zero + 1, zero, zero)):
        torch.testing.assert_close(augment.warp(image, matrix), image)


def test_whole_pixels_move(image: torch.Tensor) -> None:
    matrix = augment.move(torch.tensor([2.0, -1.0]), torch.tensor([3.0, 0.0]), 12, 8)
    moved = augment.warp(image, matrix)
    torch.testing.assert_close(moved[0, :, :-3, :-2], image[0, :, 3:, 2:])
    torch.testing.assert_close(moved[1, :, :, 1:], image[1, :, :, :-1])


def test_a_quarter_turn_is_rot90_and_keeps_proportions(image: torch.Tensor) -> None:
    turned = augment.warp(image, augment.turn(torch.full([2], math.pi / 2), 12, 8))
    torch.testing.assert_close(turned[:, :, 2:10], torch.rot90(image[:, :, 2:10], dims=(2, 3)), atol=1e-5, rtol=0)


def test_a_crop_enlarges_a_part_of_the_area_asked_for() -> None:
    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    cropped = augment.augment(ramp, crop=0.5)
    assert cropped.shape == ramp.shape
    side = cropped.diff(dim=3).median(dim=3).values.flatten()
    assert math.sqrt(0.5) - 1e-5 <= side.min() < 0.8
    assert 0.9 < side.max() <= 1 + 1e-5
    assert cropped.mean(dim=(1, 2, 3)).std() > 0.5


def test_a_mirror_image_of_a_mirror_image_is_the_image(image: torch.Tensor) -> None:
    mirrored = augment.augment(image, flip=1)
    torch.testing.assert_close(mirrored, image.flip(3))
    torch.testing.assert_close(augment.augment(mirrored, flip=1), image)


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(4.0).expand(1000, 1, 4, 4)
    mirrored = augment.augment(ramp, flip=augment.FLIPS["horizontal"])
    assert 450 < int((mirrored[:, 0, 0, 0] > 1.5).sum()) < 550


def test_all_changes_together_are_one_resampling(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    warp = augment.warp
    monkeypatch.setattr(augment, "warp", lambda *given: calls.append(given) or warp(*given))
    assert augment.augment(image, rotation=10, shift=2, crop=0.2, flip=0.5).shape == image.shape
    assert len(calls) == 1


def test_the_seed_gives_the_split() -> None:
    labels = np.arange(1000) % 10
    first, again, other = split(labels, 0), split(labels, 0), split(labels, 1)
    for part, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert np.any(first[0] != other[0])
    assert sorted(np.concatenate(first)) == list(range(1000))
    for part in first:
        counts = np.bincount(labels[part])
        assert counts.max() - counts.min() <= 1


def test_a_subset_has_its_share_of_each_class(digits: Digits) -> None:
    samples = digits.train
    half, again, other = samples.subset(0.5, 0), samples.subset(0.5, 0), samples.subset(0.5, 1)
    np.testing.assert_allclose(np.bincount(half.labels), np.bincount(samples.labels) / 2, atol=0.5)
    np.testing.assert_array_equal(half.image, again.image)
    assert np.any(half.image[:20] != other.image[:20])
    assert [*np.bincount(samples.subset(1e-9, 0).labels)] == [1] * 10
    np.testing.assert_array_equal(samples.subset(1, 0).image, samples.image)


def test_standardised_by_data_set(digits: Digits) -> None:
    image = digits.train.image
    assert (image.mean(), image.std()) == pytest.approx((0, 1), abs=1e-5)
    assert image.mean(axis=(1, 2, 3)).std() > 0.1


def test_standardised_by_image() -> None:
    for part in (load(standardise="image").train, load(standardise="image").held_out):
        np.testing.assert_allclose(part.image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(part.image.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_not_standardised() -> None:
    assert set(np.unique(load(standardise="none").train.image)) == set(range(17))


WRONG = {
    "--optimizer adma:1": "there is no optimizer 'adma'; did you mean 'adam'?",
    "--optimizer adam:x": "the share of 'adam' is 'x', not a positive number",
    "--optimizer adam:0.8,sgd:-0.2": "the share of 'sgd' is '-0.2', not a positive number",
    "--optimizer adam:": "the share of 'adam' is '', not a positive number",
    "--optimizer adam@nan": "the learning rate of 'adam' is 'nan', not a positive number",
    "--optimizer adam,": "there is no optimizer ''; there are adagrad, adam, adamw, nesterov, rmsprop, sgd",
    "--optimizer adam:1e9,sgd:1": "'sgd' has a share of 1e-09, which is no step of 592",
    "--schedule cosin": "there is no schedule 'cosin'; did you mean 'cosine'?",
    "--schedule one-cycle --warmup 0.1": "one-cycle rises by itself: leave out --warmup",
    "--warmup 1": "--warmup is a share of the steps: 0 or more, under 1",
    "--crop 1": "--crop is a share of the image: 0 or more, under 1",
    "--subset 0": "--subset is a share of the samples: over 0, at most 1",
    "--rotation nan": "--rotation is 0 or more",
    "--learning-rate 0": "--learning-rate is over 0",
    "--epochs 0": "--epochs is 1 or more",
    "--flip vertical": "there is no flip 'vertical'; there are horizontal, none",
    "--flip horizontal": "--flip horizontal is not for 'digits': a mirrored sign is another sign, or none",
    "--standardise imag": "there is no standardisation 'imag'; did you mean 'image'?",
    "--arch resnet_tin": "there is no network 'resnet_tin'; did you mean 'resnet_tiny'?",
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.items(), ids=WRONG)
def test_a_wrong_word_is_a_sentence(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        train.main(["digits", "--out", str(tmp_path), *words.split()])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"onnxopt.models.train: {sentence}\n"
    assert not [*tmp_path.iterdir()]


def test_a_wrong_data_set_or_folder_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words in (["digit"], ["digits", "--out", str(tmp_path / "file")]):
        with pytest.raises(SystemExit, match="2"):
            train.main(words)
    data_set, folder = capsys.readouterr().err.splitlines()
    assert data_set.endswith("there is no data set 'digit'; did you mean 'digits'?")
    assert folder.endswith("file: File exists")


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.ARCHITECTURES, "tiny", lambda: resnet_tiny(**SMALL))


@pytest.mark.usefixtures("tiny_network")
def test_the_command_prints_rate_and_optimizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "write", lambda *given: 0.5)
    words = "digits --arch tiny --epochs 2 --subset 0.05 --optimizer adam,sgd --schedule constant"
    train.main([*words.split(), "--out", str(tmp_path / "new")])
    first, second, result = capsys.readouterr().out.splitlines()
    assert "adam at 0.001" in first
    assert "sgd at 0.1" in second
    assert "top-1 50.00% of 512" in result


@pytest.mark.slow
@torch_exports
@pytest.mark.usefixtures("tiny_network")
def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    words = ["digits", "--arch", "tiny", "--epochs", "1", "--subset", "0.05"]
    for folder in ("first", "second"):
        train.main([*words, "--out", str(tmp_path / folder)])
    names = ["digits_calibration.npz", "digits_eval.npz", "digits_tiny.onnx"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
