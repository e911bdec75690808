"""What a federation begins with, and which of it travels."""

from pathlib import Path

import pytest
import torch

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.errors import ConfigError
from fedmeta.initial import first_params
from simulations.run import run
from tests.simulations.conftest import small

LORA = ("learner.adapt=lora", "learner.rank=2")
NET = {"linear0.weight": (40, 1), "linear0.bias": (40,), "linear1.weight": (40, 40)}
NET |= {"linear1.bias": (40,), "head.weight": (1, 40), "head.bias": (1,)}


def trained(path: Path, **changed: torch.Tensor) -> Path:
    """A file of params that no seed would draw."""
    params = {name: torch.full(shape, 0.5) for name, shape in NET.items()}
    write_checkpoint(path, params | changed, {})
    return path


def test_the_seed_decides_what_a_federation_begins_with() -> None:
    (first, _), (again, _), (other, _) = (first_params(small(f"seed={s}")) for s in (0, 0, 1))
    assert {name: tuple(value.shape) for name, value in first.items()} == NET
    assert all(first[name].equal(again[name]) for name in NET)
    assert not first["linear1.weight"].equal(other["linear1.weight"])


def test_a_run_can_begin_with_the_params_that_another_ended_with(tmp_path: Path) -> None:
    found = run(small(), tmp_path / "run", pictures=False).params
    file = tmp_path / "run" / "params.safetensors"
    begun, private = first_params(small(f"start={file}", "seed=5"))
    assert private == {}
    assert all(begun[name].equal(found[name]) for name in NET)
    drawn, _ = first_params(small())
    assert not begun["head.weight"].equal(drawn["head.weight"])
    assert read_checkpoint(file)[1] == {"name": "quickstart", "round": 4}


def test_what_is_frozen_stays_on_the_node_as_it_was_trained(tmp_path: Path) -> None:
    file = trained(tmp_path / "x.safetensors")
    travels, stays = first_params(small(f"start={file}", *LORA, "learner.freeze=true"))
    lora = {f"lora/linear{i}.weight/{part}" for i in (0, 1) for part in "ab"}
    assert set(travels) == lora | {"head.weight", "head.bias"}
    assert set(stays) == set(NET) - {"head.weight", "head.bias"}
    assert all(bool((value == 0.5).all()) for value in stays.values())


def test_what_the_learner_put_beside_the_params_goes_on_too(tmp_path: Path) -> None:
    rate = {"rate/all": torch.tensor(0.07)}
    file = trained(tmp_path / "x.safetensors", **rate)
    travels, _ = first_params(small(f"start={file}", "learner.learn_rates=scalar"))
    assert travels["rate/all"] == torch.tensor(0.07)


def test_personal_params_begin_as_the_trained_ones(tmp_path: Path) -> None:
    file = trained(tmp_path / "x.safetensors")
    ditto = "learner={name: ditto, lr: 0.01, epochs: 1, batch_size: 5, lam: 1.0}"
    _, stays = first_params(small(f"start={file}", "learner=null", ditto))
    assert bool((stays["personal/head.weight"] == 0.5).all())


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start: .*nowhere\.safetensors: there is no checkpoint"):
        first_params(small(f"start={tmp_path / 'nowhere.safetensors'}"))
    wide = trained(tmp_path / "wide.safetensors", **{"head.weight": torch.zeros(3, 40)})
    with pytest.raises(ConfigError, match=r"start: head\.weight has shape \[3, 40\] in the file"):
        first_params(small(f"start={wide}"))
    write_checkpoint(tmp_path / "other.safetensors", {"w": torch.zeros(1)}, {})
    with pytest.raises(ConfigError, match=r"start: only one of the file and the model has .*, w$"):
        first_params(small(f"start={tmp_path / 'other.safetensors'}"))
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04 pickle")
    with pytest.raises(ConfigError, match="is not a readable checkpoint"):
        first_params(small(f"start={tmp_path / 'bad.safetensors'}"))


def test_a_file_of_a_deeper_or_shallower_model_is_refused(tmp_path: Path) -> None:
    file = trained(tmp_path / "x.safetensors")
    for hidden, odd in (("[40]", "linear1"), ("[40,40,40]", "linear2")):
        with pytest.raises(ConfigError, match=rf"only one of .* has {odd}\.bias, {odd}\.weight$"):
            first_params(small(f"start={file}", f"model.hidden={hidden}"))


def test_what_a_run_leaves_has_the_params_that_never_travelled_too(tmp_path: Path) -> None:
    frozen = small("learner.adapt=head", "learner.freeze=true")
    run(frozen, tmp_path / "run", pictures=False)
    left, _ = read_checkpoint(tmp_path / "run" / "params.safetensors")
    _, stays = first_params(frozen)
    assert left.keys() == NET.keys()
    assert all(left[name].equal(value) for name, value in stays.items())


def test_a_server_that_is_not_trusted_names_no_file(tmp_path: Path) -> None:
    """Where all params travel the file is the server's own affair, and is not looked for."""
    nowhere = f"start={tmp_path / 'nowhere.safetensors'}"
    travels, _ = first_params(small(nowhere), trusted=False)
    assert {name: tuple(value.shape) for name, value in travels.items()} == NET
    with pytest.raises(ConfigError, match="this one reads no file that a server names"):
        first_params(small(nowhere, "learner.adapt=head", "learner.freeze=true"), trusted=False)
