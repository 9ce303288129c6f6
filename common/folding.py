"""Batch normalisation folded into the convolutions before it: the same function with a third less work."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CLOSE = 1e-3  # relative difference of the outputs, of which rounding explains 1e-5


def folded(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """Return `module` in which every batch normalisation that is a convolution's only consumer has become part of it.

    Which those are shows on a run with `example`. Layers with hooks stay as they are. Where the output for `example` does not stay
    the same (a convolution that computes its weights, say) or the module cannot be copied, it is returned itself.
    """
    try:
        result = copy.deepcopy(module)
    except (RuntimeError, TypeError, AttributeError):
        return module
    with torch.inference_mode():
        before = result(example)
        pairs = _pairs(result, example)
    for convolution, name, norm in pairs:
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight = weight
        convolution.bias = bias.requires_grad_(False)
        parent, _, last = name.rpartition(".")
        activation = getattr(norm, "act", nn.Identity())  # timm joins it with the normalisation
        setattr(result.get_submodule(parent), last, activation)
    with torch.inference_mode():
        difference = (result(example) - before).norm() / before.norm().clamp_min(1e-12)
    return result if pairs and difference < CLOSE else module


def _pairs(module: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Return each convolution with the name and layer of the batch normalisation that alone takes its output."""
    made_by: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    taken: dict[nn.Module, int] = {}
    uses: dict[int, int] = {}

    def convolved(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        made_by[id(output)] = layer, output  # type: ignore[assignment]  # held, so that ids stay distinct

    def normalised(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        taken[layer] = id(inputs[0])

    class Uses(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = function(*args, **(kwargs or {}))
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(output)):  # not a question about its shape
                for leaf in tree_leaves((args, kwargs)):
                    if id(leaf) in made_by:
                        uses[id(leaf)] = uses.get(id(leaf), 0) + 1
            return output

    layers = {name: layer for name, layer in module.named_modules() if not layer._forward_hooks}
    norms = {layer: name for name, layer in layers.items() if isinstance(layer, nn.BatchNorm2d)}
    hooks = [layer.register_forward_hook(convolved) for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    hooks += [layer.register_forward_pre_hook(normalised) for layer in norms]
    with Uses():
        module(example)
    for hook in hooks:
        hook.remove()
    pairs = []
    for norm, output in taken.items():
        if output in made_by and uses.get(output) == 1 and norm.running_mean is not None:  # type: ignore[union-attr]
            convolution = made_by[output][0]
            if calls[norm] == calls[convolution] == 1:
                pairs.append((convolution, norms[norm], norm))  # type: ignore[index,arg-type]
    return pairs  # type: ignore[return-value]
