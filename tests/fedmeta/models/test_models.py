import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.models import MODELS, Model
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch

IMAGE = (1, 28, 28)
CASES: dict[str, Model] = {
    "conv4 strided": Conv4(filters=4, downsampling="strided"),
    "conv4 pooled": Conv4(filters=4, downsampling="pooled"),
    "mlp": Mlp([6, 5]),
    "mlp norm": Mlp([6, 5], norm=True),
    "mlp tanh": Mlp([6], activation="tanh"),
}
every_model = pytest.mark.parametrize("model", CASES.values(), ids=CASES.keys())


def images(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, *IMAGE, generator=generator, dtype=torch.float64).to(dtype)


def size(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters())


def test_every_model_is_here() -> None:
    assert {type(model) for model in CASES.values()} == set(MODELS.values())


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_dtype(model: Model, dtype: torch.dtype) -> None:
    objective = Objective(model.build(IMAGE, 7), "cross_entropy")
    params = initial_params(objective.module, 0, dtype)
    logits = objective.predict(params, images(6, dtype))
    assert logits.shape == (6, 7)
    assert logits.dtype == dtype
    assert {param.dtype for param in params.values()} == {dtype}


@every_model
def test_float32_is_float64_rounded(model: Model) -> None:
    """The draw is the same. ``1e-4``: some 1e3 roundings of 6e-8 in a forward pass."""
    objective = Objective(model.build(IMAGE, 5), "cross_entropy")
    params = {
        dtype: initial_params(objective.module, 0, dtype)
        for dtype in (torch.float32, torch.float64)
    }
    for name, param in params[torch.float64].items():
        assert torch.equal(params[torch.float32][name], param.float())
    single, double = (objective.predict(params[dtype], images(6, dtype)) for dtype in params)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)


@pytest.mark.parametrize("downsampling", ["strided", "pooled"])
def test_conv4_has_the_parameters_of_the_papers(downsampling: str) -> None:
    """A block of c -> 64 filters has ``9 c 64 + 64`` in the convolution and 2 x 64 in the norm.

    The last map of a 28x28 image is 2x2, averaged (28, 14, 7, 4, 2), or 1x1 (28, 14, 7, 3, 1): the
    head is 64 x 5 + 5 in both.
    """
    blocks = [9 * channels * 64 + 64 + 128 for channels in (1, 64, 64, 64)]
    assert sum(blocks) + 64 * 5 + 5 == 112_261
    assert size(Conv4(downsampling=downsampling).build(IMAGE, 5)) == 112_261


def test_pooled_conv4_flattens_the_last_map() -> None:
    """84, 42, 21, 10, 5 (mini-ImageNet): 25 places of 8 filters."""
    module = Conv4(filters=8, downsampling="pooled").build((3, 84, 84), 5)
    assert module.get_parameter("head.weight").shape == (5, 8 * 25)
    assert module(torch.zeros(2, 3, 84, 84)).shape == (2, 5)


def test_strided_conv4_takes_any_size() -> None:
    module = Conv4(filters=8).build((3, 84, 84), 5)
    assert module.get_parameter("head.weight").shape == (5, 8)
    assert module(torch.zeros(2, 3, 84, 84)).shape == (2, 5)


def test_sinusoid_mlp() -> None:
    """1-40-40-1: (1 + 1) 40 + (40 + 1) 40 + (40 + 1) = 1761 (Finn et al. 2017)."""
    assert size(Mlp([40, 40]).build((1,), 1)) == 2 * 40 + 41 * 40 + 41 == 1761


def test_omniglot_mlp() -> None:
    """784-256-128-64-64-5, with a scale and a shift for each of the hidden units."""
    sizes = [784, 256, 128, 64, 64, 5]
    linear = sum((sizes[i] + 1) * sizes[i + 1] for i in range(5))
    assert size(Mlp(sizes[1:-1], norm=True).build(IMAGE, 5)) == linear + 2 * sum(sizes[1:-1])


def test_mlp_without_hidden_tricks_is_two_matrix_products() -> None:
    objective = Objective(Mlp([6]).build(IMAGE, 5), "cross_entropy")
    params, x = initial_params(objective.module, 0, torch.float64), images(4)
    hidden = torch.relu(x.flatten(1) @ params["linear0.weight"].T + params["linear0.bias"])
    expected = hidden @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(objective.predict(params, x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("downsampling", ["strided", "pooled"])
def test_conv4_is_what_the_papers_say(downsampling: str) -> None:
    """Block by block: convolution, batch statistics, ReLU and, where pooled, the pool after it."""
    objective = Objective(
        Conv4(filters=4, downsampling=downsampling).build(IMAGE, 5), "cross_entropy"
    )
    params, x = initial_params(objective.module, 0, torch.float64), images(6)
    h, strided = x, downsampling == "strided"
    for block in (f"block{i}" for i in range(4)):
        weight, bias = params[f"{block}.conv.weight"], params[f"{block}.conv.bias"]
        h = F.conv2d(h, weight, bias, stride=2 if strided else 1, padding=1)
        variance, mean = torch.var_mean(h, dim=(0, 2, 3), keepdim=True, correction=0)
        h = torch.relu((h - mean) / (variance + 1e-5).sqrt())  # scale 1 and shift 0 at the start
        h = h if strided else F.max_pool2d(h, 2)
    h = h.mean(dim=(2, 3)) if strided else h.flatten(1)
    expected = h @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(objective.predict(params, x), expected, atol=1e-10, rtol=0)


@every_model
def test_nothing_is_remembered_between_calls(model: Model) -> None:
    """No buffers, so no running statistics; and evaluation mode predicts as training mode does."""
    module = model.build(IMAGE, 5)
    assert not list(module.buffers())
    trained = module.train()(images(6, torch.float32))
    assert torch.equal(module.eval()(images(6, torch.float32)), trained)


@pytest.mark.parametrize(
    ("name", "transductive"), [("conv4 strided", True), ("mlp norm", True), ("mlp", False)]
)
def test_batch_norm_is_transductive(name: str, transductive: bool) -> None:
    """With batch norm a prediction depends on the rest of the batch; without, it does not."""
    module = CASES[name].build(IMAGE, 5).double()
    x = images(6)
    apart = (module(x)[:3] - module(x[:3])).abs().max() > 1e-6
    assert bool(apart) is transductive


@every_model
def test_a_functional_call_leaves_the_module_untouched(model: Model) -> None:
    objective = Objective(model.build(IMAGE, 5), "cross_entropy")
    start = initial_params(objective.module, 1, torch.float32)
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    params = {name: (value + 1).requires_grad_() for name, value in start.items()}
    batch = Batch(images(5, torch.float32), torch.arange(5))
    objective(params, batch).backward()
    for name, value in objective.module.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[name])
        assert value.grad is None
    assert all(value.grad is not None for value in params.values())


@every_model
def test_params_follow_from_the_seed(model: Model) -> None:
    module = model.build(IMAGE, 5)
    first = initial_params(module, 7, torch.float32)
    torch.rand(1)  # the global generator has no part in it
    again = initial_params(model.build(IMAGE, 5), 7, torch.float32)
    other = initial_params(module, 8, torch.float32)
    assert list(first) == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("weight") and "norm" not in name]
    assert not any(torch.equal(first[name], other[name]) for name in weights)


@every_model
def test_every_parameter_is_drawn_anew(model: Model) -> None:
    module = model.build(IMAGE, 5)
    with torch.no_grad():
        for param in module.parameters():
            param.fill_(torch.nan)
    drawn = initial_params(module, 0, torch.float32)
    assert all(values.isfinite().all() for values in drawn.values())
    assert not any(values.requires_grad for values in drawn.values())


@every_model
def test_drawing_params_leaves_the_global_generator_alone(model: Model) -> None:
    module, before = model.build(IMAGE, 5), torch.get_rng_state()
    initial_params(module, 0, torch.float64)
    assert torch.equal(torch.get_rng_state(), before)


def test_later_changes_of_the_module_do_not_reach_the_params() -> None:
    module = Mlp([6]).build((1,), 1)
    params = initial_params(module, 0, torch.float32)
    before = params["head.weight"].clone()
    with torch.no_grad():
        module.get_parameter("head.weight").zero_()
    assert torch.equal(params["head.weight"], before)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Conv4, {"filters": 0}, r"^model\.filters must be 1 or more, got 0$"),
        (Mlp, {"hidden": []}, r"^model\.hidden must list sizes of 1 or more, got \[\]$"),
        (Mlp, {"hidden": [40, 0]}, r"^model\.hidden must list .*, got \[40, 0\]$"),
    ],
)
def test_settings_out_of_range(
    kind: type[Model], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_conv4_wants_images() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: conv4 needs images .*, got \(1,\)$"):
        Conv4().build((1,), 5)
