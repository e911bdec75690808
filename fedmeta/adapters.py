"""Adapters: few numbers beside a model's params that bend what it computes, without changing its code.

Names with a slash belong to the learner, not to the module: ``lora/<weight>/a``, ``film/<layer>/scale``.
Both adapters act on the params before the module is called, which equals acting on its layers.
"""

from fnmatch import fnmatchcase

import torch

from fedmeta.types import Params

HEAD, NORM = "head.*", "*norm*"
"""What every model calls its last layer and its norm layers."""


def own(params: Params) -> Params:
    """The params of the module itself."""
    return {name: value for name, value in params.items() if "/" not in name}


def merged(params: Params) -> Params:
    """The module's params with the adapters among ``params`` worked in."""
    model = own(params)
    for name in params:
        kind, _, rest = name.partition("/")
        if kind == "lora" and rest.endswith("/a"):
            weight = rest.removesuffix("/a")
            update = params[f"lora/{weight}/b"] @ params[name]
            model[weight] = model[weight] + update.reshape(model[weight].shape)
        elif kind == "film" and rest.endswith("/scale"):
            layer = rest.removesuffix("/scale")
            scale, shift = 1 + params[name], params[f"film/{layer}/shift"]
            gain = model[f"{layer}.weight"]
            model[f"{layer}.weight"] = gain * scale.reshape(-1, *[1] * (gain.ndim - 1))
            model[f"{layer}.bias"] = model[f"{layer}.bias"] * scale + shift
    return model


def low_rank(params: Params, rank: int, generator: torch.Generator) -> Params:
    """LoRA (Hu et al., ICLR 2022): ``W + B A`` for every matrix or filter bank except the head's.

    ``A [rank, inputs]`` is drawn with variance ``1 / inputs``, ``B [outputs, rank]`` is zero.
    """
    adapters: Params = {}
    for name, weight in own(params).items():
        if weight.ndim < 2 or fnmatchcase(name, HEAD):
            continue
        outputs, inputs = weight.shape[0], weight[0].numel()
        drawn = torch.randn(rank, inputs, generator=generator, dtype=torch.float64)
        adapters[f"lora/{name}/a"] = (drawn / inputs**0.5).to(weight)
        adapters[f"lora/{name}/b"] = weight.new_zeros(outputs, rank)
    return adapters


def feature_wise(params: Params) -> Params:
    """FiLM (Perez et al., AAAI 2018): ``(1 + scale) z + shift`` for every channel ``z`` of a layer.

    The layers are the norm layers where the model has any (a norm would undo a scale before it),
    else all layers but the head. Both begin at zero.
    """
    layers = [
        name.removesuffix(".weight")
        for name in own(params)
        if name.endswith(".weight") and name.removesuffix("weight") + "bias" in params
    ]
    norms = [layer for layer in layers if fnmatchcase(layer, NORM)]
    return {
        f"film/{layer}/{part}": torch.zeros_like(params[f"{layer}.bias"])
        for layer in norms or layers
        if not fnmatchcase(f"{layer}.weight", HEAD)
        for part in ("scale", "shift")
    }
