"""What torch-pruning makes of a model: its group-norm pruner without fine-tuning.

The pruner ranks the channels of a group by the L2 norm of all the weights they have, and removes the same share of
each group (uniform) or the least of all groups (global). Nothing is fitted to data. Residual channels are pruned where
torch-pruning can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import onnx_ir as ir
import torch
import torch_pruning
from prune_net import Module

MOST = 0.95
"""Share of a group's channels that goes at most."""


class Peer:
    """torch-pruning on one model."""

    def __init__(
        self, modules: Callable[[ir.Model], Module], model: ir.Model, example: torch.Tensor, *, everywhere: bool
    ) -> None:
        """Find out which groups it can prune.

        Args:
            modules: makes the model a PyTorch module.
            model: what is pruned; it stays as it is.
            example: input of the module.
            everywhere: one ranking of the channels of all groups, in place of one for each.

        Raises:
            AssertionError: if the module computes something else than the model.
        """
        self.modules, self.model, self.example, self.everywhere = modules, model, example, everywhere
        modules(model.clone()).check(example)
        self.broken = frozenset(self._broken())

    def pruned(self, ratio: float) -> ir.Model:
        """The model without this share of its channels.

        Raises:
            AssertionError: if it computes something else than the pruned module.
        """
        model = self.model.clone()
        module = self.modules(model)
        self._pruner(module, ratio, self.broken).step()
        module.write()
        module.check(self.example)
        return model

    def _pruner(self, module: Module, ratio: float, broken: Collection[int] = ()) -> torch_pruning.BasePruner:
        stay = [layer for place, layer in enumerate(module.modules()) if place in broken]
        return torch_pruning.pruner.GroupNormPruner(
            module,
            self.example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=self.everywhere,
            pruning_ratio=ratio,
            max_pruning_ratio=MOST,
            ignored_layers=[*module.last(), *stay],
        )

    def _broken(self) -> Iterator[int]:
        """The places among the modules of those layers for whose groups torch-pruning fails to find an importance.

        So it does (1.6.1) where channels of zeros are padded to a residual sum.
        """
        module = self.modules(self.model.clone())
        pruner = self._pruner(module, 0.0)
        places = {layer: place for place, layer in enumerate(module.modules())}
        for group in pruner.DG.get_all_groups(pruner.ignored_layers, pruner.root_module_types):
            try:
                pruner.estimate_importance(group)
            except IndexError:
                made = [one for one, _ in group if pruner.DG.is_out_channel_pruning_fn(one.handler)]
                yield from (places[one.target.module] for one in made if one.target.module in places)
