"""A recorded program with channels last: the same numbers, and no image that is laid out otherwise."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from fedmeta.engines.channels_last import lay_channels_last
from fedmeta.engines.program import improve, record
from fedmeta.learners.maml import Maml
from fedmeta.models.conv4 import Conv4
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode

aten = torch.ops.aten
ON_IMAGES = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.native_batch_norm.default,
    aten.native_batch_norm_backward.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool2d_with_indices_backward.default,
}


class Layouts(Interpreter):
    """Notes which operations make images whose channels are not last."""

    def __init__(self, program: Any) -> None:
        super().__init__(program)
        self.seen: set[Any] = set()
        self.wrong: list[Any] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        image = result[0] if isinstance(result, tuple) else result
        if target in ON_IMAGES and isinstance(image, Tensor):
            self.seen.add(target)
            if image.dim() == 4 and not image.is_contiguous(memory_format=torch.channels_last):
                self.wrong.append(target)
        return result


def test_every_operation_on_images_has_channels_last() -> None:
    """Of MAML's second order with pooling; without the pass, none has."""
    objective = Objective(
        Conv4(filters=4, downsampling="pooled").build((1, 16, 16), 3), "cross_entropy"
    )
    params = initial_params(objective.module, 0, torch.float64)
    x = torch.randn(1, 6, 1, 16, 16, dtype=torch.float64)
    batch = Batch(x, torch.arange(3).repeat(2)[None])
    learner = Maml(inner_lr=0.1, inner_steps=2)

    given, nest = tree_flatten((params, Episode(batch, batch)))

    def update(*given: Tensor) -> Any:
        return tree_leaves(learner.update(objective, *tree_unflatten(given, nest)).delta)

    program = record(update, *given)
    better = improve(program, lay_channels_last, *given)
    plain, laid = Layouts(program), Layouts(better)
    expected, found = plain.run(*given), laid.run(*given)
    assert plain.seen == laid.seen == ON_IMAGES
    assert plain.wrong
    assert not laid.wrong
    scale = max(value.abs().max() for value in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() < 1e-13 * scale


def same(function: Any, *given: Any) -> bool:
    program = record(function, *given)
    found = improve(program, lay_channels_last, *given)(*given)
    return torch.equal(found, function(*given))


def test_what_is_written_into_a_view_is_in_the_image() -> None:
    """The view is no copy, though its channels are not last."""

    def write(x: Tensor) -> Tensor:
        image = x * 2
        image.transpose(2, 3).add_(torch.arange(4.0))
        image.view(-1)[0] = 7
        return image + 1

    assert same(write, torch.randn(2, 3, 4, 4))


def test_a_program_that_reads_strides_is_left_alone() -> None:
    def read(x: Tensor) -> Tensor:
        return torch.as_strided(x * 2, (4, 6), (1, 4))

    program = record(read, torch.randn(2, 3, 2, 2))
    assert improve(program, lay_channels_last, torch.randn(2, 3, 2, 2)) is program
    assert same(read, torch.randn(2, 3, 2, 2))


def test_images_that_were_expanded_take_no_memory() -> None:
    def spread(x: Tensor) -> Tensor:
        return x[:, None, None, None].expand(2, 3, 4, 4)

    program = improve(record(spread, torch.ones(2)), lay_channels_last, torch.ones(2))
    assert program(torch.ones(2)).untyped_storage().nbytes() == 2 * 4
