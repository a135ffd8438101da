"""What the parameters of public networks are called, and whether ours compute the same from them.

    python tests/models/public_names.py                    # compare
    python tests/models/public_names.py resnet50 unet      # compare these
    python tests/models/public_names.py --write            # and write public_names.json

Needs torchvision, timm and transformers; no part of the tests, which compare with public_names.json.
For each network the names and shapes of its state dict are compared with the public ones; then the public
network's numbers, made random, are loaded into ours, and the outputs compared. Two networks
are in no package: their lists follow from their authors' description, and there are no outputs.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from onnxopt.models.bert import bert_base, minilm_l6
from onnxopt.models.efficientnet import efficientnet_b0
from onnxopt.models.gpt2 import gpt2, gpt2_past
from onnxopt.models.mobilenet_v2 import mobilenet_v2
from onnxopt.models.mobilenet_v3 import mobilenet_v3_small
from onnxopt.models.resnet import resnet18, resnet34, resnet50
from onnxopt.models.resnet_cifar import resnet20_cifar, resnet56_cifar
from onnxopt.models.squeezenet import squeezenet1_1
from onnxopt.models.unet import unet
from onnxopt.models.vgg import vgg11_bn
from onnxopt.models.vit import vit_small_patch16

Shapes = dict[str, tuple[int, ...]]
"""Name in a state dict to its shape."""

TABLE = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-5
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet20_cifar": resnet20_cifar,
    "resnet56_cifar": resnet56_cifar,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet_v3_small,
    "squeezenet1_1": squeezenet1_1,
    "efficientnet_b0": efficientnet_b0,
    "vgg11_bn": vgg11_bn,
    "unet": partial(unet, width=64),
    "vit_small_patch16": vit_small_patch16,
}
"""Ours for images, of the public size."""
TEXT: dict[str, Callable[[], nn.Module]] = {
    "minilm_l6": minilm_l6,
    "bert_base": bert_base,
    "gpt2": gpt2,
    "gpt2_past": gpt2_past,
}
"""Ours for text."""
TIMM = {"vit_small_patch16": "deit_small_patch16_224"}


def shapes(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def lines(found: Shapes) -> list[str]:
    return sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in found.items())


def summary(found: Shapes) -> dict[str, int | str]:
    """What public_names.json holds of each network, but for the source."""
    learned = {name: shape for name, shape in found.items() if not name.endswith(("mean", "var", "tracked"))}
    return {
        "entries": len(found),
        "parameters": sum(torch.Size(shape).numel() for shape in learned.values()),
        "sha256": hashlib.sha256("\n".join(lines(found)).encode()).hexdigest(),
    }


def reference(name: str) -> tuple[str, nn.Module]:
    """The public network, and where it is from."""
    if name in TEXT:
        return text_reference(name)
    if name in TIMM:
        import timm

        return f"timm {release(timm)} {TIMM[name]}", timm.create_model(TIMM[name]).eval()
    import torchvision

    return f"torchvision {release(torchvision)} {name}", torchvision.models.get_model(name).eval()


def text_reference(name: str) -> tuple[str, nn.Module]:
    """BERT without its pooler, GPT-2 with its last layer; attention step by step, as ours."""
    import transformers

    source = f"transformers {release(transformers)}"
    if name.startswith("gpt2"):
        config = transformers.GPT2Config(attn_implementation="eager")
        return f"{source} GPT2LMHeadModel(GPT2Config())", transformers.GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6} if name == "minilm_l6" else {}
    config = transformers.BertConfig(**sizes, attn_implementation="eager")
    words = ", ".join(f"{key}={value}" for key, value in sizes.items())
    network = transformers.BertModel(config, add_pooling_layer=False)
    return f"{source} BertModel(BertConfig({words}), add_pooling_layer=False)", network.eval()


def release(package: ModuleType) -> str:
    """The version, without what it was built for."""
    return str(package.__version__).partition("+")[0]


def described(name: str) -> tuple[str, Shapes]:
    """Names and shapes of the networks that are in no package, and whose description they follow from."""
    if name == "unet":
        return "milesial/Pytorch-UNet, UNet(n_channels=3, n_classes=2, bilinear=False)", unet_shapes()
    depth = {"resnet20_cifar": 3, "resnet56_cifar": 9}[name]
    return f"akamaster/pytorch_resnet_cifar10 {name.removesuffix('_cifar')}", resnet_cifar_shapes(depth)


def resnet_cifar_shapes(depth: int) -> Shapes:
    found = {"conv1.weight": (16, 3, 3, 3), **norm_shapes("bn1", 16)}
    before = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(depth):
            for number in (1, 2):
                prefix = f"layer{stage}.{block}"
                found[f"{prefix}.conv{number}.weight"] = (width, before, 3, 3)
                found |= norm_shapes(f"{prefix}.bn{number}", width)
                before = width
    return found | {"linear.weight": (10, 64), "linear.bias": (10,)}


def unet_shapes() -> Shapes:
    found = double_conv_shapes("inc.double_conv", 3, 64)
    for step in range(1, 5):
        wide, narrow = 64 * 2**step, 64 * 2 ** (step - 1)
        found |= double_conv_shapes(f"down{step}.maxpool_conv.1.double_conv", narrow, wide)
        up = f"up{5 - step}"
        found |= {f"{up}.up.weight": (wide, narrow, 2, 2), f"{up}.up.bias": (narrow,)}
        found |= double_conv_shapes(f"{up}.conv.double_conv", wide, narrow)
    return found | {"outc.conv.weight": (2, 64, 1, 1), "outc.conv.bias": (2,)}


def double_conv_shapes(prefix: str, before: int, after: int) -> Shapes:
    first = {f"{prefix}.0.weight": (after, before, 3, 3), **norm_shapes(f"{prefix}.1", after)}
    return first | {f"{prefix}.3.weight": (after, after, 3, 3), **norm_shapes(f"{prefix}.4", after)}


def norm_shapes(prefix: str, width: int) -> Shapes:
    found: Shapes = {f"{prefix}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}
    return found | {f"{prefix}.num_batches_tracked": ()}


def perturbed(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same with noise, most of it on biases and norms, that begin as zeros and ones; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    noisy = {}
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator) * (0.1 if value.ndim == 1 else 0.02)
        noisy[name] = (value + noise) if value.is_floating_point() else value
        if name.endswith("running_var"):
            noisy[name] = noisy[name].abs() + 0.5
    return noisy


def difference(name: str, ours: nn.Module, public: nn.Module, seed: int = 0) -> float:
    """Greatest difference of the outputs, relative to the greatest output, with the same random numbers in both."""
    state = perturbed(public.state_dict(), seed)
    ours.eval().load_state_dict(state, strict=True)
    public.eval().load_state_dict(state, strict=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if name in TEXT:
            want, got = text_outputs(name, ours, public, torch.randint(0, 30000, (3, 40), generator=generator))
        else:
            image = torch.randn(2, 3, 224, 224, generator=generator)
            want, got = public(image), ours(image)
    return float((got - want).abs().max() / want.abs().max())


def text_outputs(name: str, ours: nn.Module, public: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the public network and ours make of tokens, the last of which are masked in one sentence."""
    mask = torch.ones_like(ids)
    mask[1, -5:] = 0
    if name == "gpt2":
        return public(input_ids=ids, attention_mask=mask).logits, ours(ids, mask)
    if name != "gpt2_past":
        types = ids % 2
        want = public(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return want, ours(ids, mask, types)

    before = ids.shape[1] - 3  # the last three tokens have a past
    first = public(input_ids=ids[:, :before], attention_mask=mask[:, :before], use_cache=True)
    second = public(input_ids=ids[:, before:], attention_mask=mask, past_key_values=first.past_key_values)
    nothing = [torch.zeros(len(ids), 12, 0, 64)] * 24
    found = ours(ids[:, :before], mask[:, :before], *nothing)
    found = ours(ids[:, before:], mask, *(found[present] for present in ours.present_names))
    layers = second.past_key_values.layers
    want = [second.logits, *(part for layer in layers for part in (layer.keys, layer.values))]
    return torch.cat([one.flatten() for one in want]), torch.cat([one.flatten() for one in found.values()])


def compare(name: str) -> dict[str, int | str]:
    """Print how the two compare; return the row of public_names.json.

    Raises:
        SystemExit: they differ.
    """
    ours, public = (NETWORKS | TEXT)[name](), None
    if name == "unet" or name.endswith("_cifar"):
        source, found = described(name)
    else:
        source, public = reference(name)
        found = shapes(public)
    if differing := sorted(set(lines(found)) ^ set(lines(shapes(ours)))):
        sys.exit(f"{name} is not {source}; only one of them has\n  " + "\n  ".join(differing))
    apart = None if public is None else difference(name, ours, public)
    row = summary(found)
    outputs = "no outputs to compare" if apart is None else f"outputs differ by {apart:.1e}"
    print(f"{name:18} {source:68} {row['entries']:4} entries {row['parameters']:11,} parameters  {outputs}")
    if apart is not None and not apart < TOLERANCE:
        sys.exit(f"{name} does not compute what {source} does")
    return {"source": source, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", help=f"networks (default: all): {', '.join(NETWORKS | TEXT)}")
    parser.add_argument("--write", action="store_true", help="write public_names.json")
    options = parser.parse_args()
    table = {name: compare(name) for name in options.names or NETWORKS | TEXT}
    if options.write:
        known = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps(known | table, indent=2) + "\n")


if __name__ == "__main__":
    main()
