"""What a device's owner does after the training, by the commands: adapt, predict, export."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.config import load
from fedmeta.data.shard import Shard, write_shard
from fedmeta.initial import first_params
from fedmeta.personal import read_personal
from simulations import export as exporting
from simulations.cli import app
from strategies.state import CONFIG, PARAMS

HEAD = """
name: mine
rounds: 1
learner: {name: maml, order: 1, inner_lr: 0.4, inner_steps: 1}
strategy: {name: fedavg}
cohort: {clients: 1}
evaluation: {every: 1, steps: 2, clients: 1}
"""
PICTURES = """
data: {name: own_classes, ways: 3, shots: 1, queries: 1, shape_of_inputs: [1, 16, 16]}
model: {name: conv4, filters: 4}
"""
ROWS = """
data: {name: own_values, shots: 1, queries: 1, shape_of_inputs: [3], outputs: 2}
model: {name: mlp, hidden: [5]}
"""


def fedmeta(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> str:
    """What a command that succeeds prints, on one line."""
    result = fedmeta(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: str) -> str:
    """The one line of an error."""
    result = fedmeta(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def finished(folder: Path, sections: str) -> Path:
    """A run folder, as far as the owner of a device needs one."""
    folder.mkdir()
    (folder / CONFIG).write_text(HEAD + sections)
    params, _ = first_params(load(folder / CONFIG))
    write_checkpoint(folder / PARAMS, params, {"name": "mine", "round": 1})
    return folder


def picture(level: int, slope: int) -> Tensor:
    return (level + slope * torch.arange(256).reshape(1, 16, 16)).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, a shard for each, and a personal model of the pictures."""
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "pictures", PICTURES)
    finished(tmp_path / "rows", ROWS)
    x = torch.stack(
        [picture(10 * i, 0) for i in range(4)] + [picture(255 - i, -1) for i in range(4)]
    )
    y = torch.arange(2).repeat_interleave(4)
    write_shard(Shard("own_classes", 5, "test", x, y, ("dark", "bright")), Path("p.safetensors"))
    points = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
    write_shard(Shard("own_values", 5, "test", points, points[:, :2]), Path("r.safetensors"))
    done("adapt", "pictures", "--shard", "p.safetensors", "--steps", "30")
    return tmp_path


def test_adapt_says_what_it_was_judged_by(here: Path) -> None:
    adapt = ("adapt", "pictures", "--shard", "p.safetensors")
    said = done(*adapt, "--hold-out", "1", "--out", "a")
    assert "2 examples held out" in said
    assert "after 2 steps" in said
    assert "adapted to 6 examples: a" in said
    assert "accuracy" in said
    said = done(*adapt, "--out", "b", "--steps", "0")
    assert "the 8 examples adapted to" in said
    assert "Of others they say nothing" in said
    assert "accuracy" not in done("adapt", "rows", "--shard", "r.safetensors", "--out", "c")


def test_predict_pictures(here: Path) -> None:
    for name, level in (("night.png", 5), ("day.png", 250)):
        Image.fromarray(np.full((40, 30), level, dtype=np.uint8)).save(name)
    said = done("predict", "personal.safetensors", "night.png", "day.png", "p.safetensors")
    model = read_personal(Path("personal.safetensors"))
    chance = model.predict(picture(5, 0)[None])[0]
    assert f"night.png │ dark │ {100 * chance[0]:.1f} %" in said
    assert "day.png │ bright" in said
    assert "p 7 │ bright" in said
    assert "8 of 8 as the owner says" in said
    assert "night.png │ bright" in done("predict", "personal.safetensors", "night.png", "--invert")


def test_predict_rows(here: Path) -> None:
    done("adapt", "rows", "--shard", "r.safetensors", "--out", "v.safetensors")
    Path("t.csv").write_text("a,b,c,truth\n1,2,3,9\n\n-1,0.5,1e-3,8\n")
    output = fedmeta("predict", "v.safetensors", "t.csv", "--target", "truth").output
    assert max(map(len, output.splitlines())) <= 80
    said = " ".join(output.split())
    x = torch.tensor([[1, 2, 3], [-1, 0.5, 1e-3]], dtype=torch.float64)
    rows = read_personal(Path("v.safetensors")).predict(x).tolist()
    for line, (first, second), truth in zip((2, 4), rows, (9, 8), strict=True):
        assert f"t.csv, line {line} │ {first:.6g}, {second:.6g} │ {truth}" in said


def test_what_adapt_refuses(here: Path) -> None:
    shard = ("--shard", "p.safetensors", "--out", "out")
    assert "nowhere: is no run folder" in refused("adapt", "nowhere", *shard)
    (here / "rows" / PARAMS).unlink()
    assert "finish the run with" in refused("adapt", "rows", *shard)
    (here / "rows" / PARAMS).write_bytes((here / "pictures" / PARAMS).read_bytes())
    assert "is not of config.yaml beside it, in block0" in refused("adapt", "rows", *shard)
    (here / "rows" / PARAMS).write_bytes(b"\x80\x04.")
    assert "is not a readable checkpoint" in refused("adapt", "rows", *shard)
    pictures = ("adapt", "pictures")
    assert "inputs [3] with 2 values" in refused(*pictures, "--shard", "r.safetensors", *shard[2:])
    assert "there is no such file" in refused(*pictures, "--shard", "q", *shard[2:])
    assert "leaves 0, adapting needs 1" in refused(*pictures, *shard, "--hold-out", "4")
    assert "--steps must be 0 or more" in refused(*pictures, *shard, "--steps", "-1")
    assert "--hold-out must be 0 or more" in refused(*pictures, *shard, "--hold-out", "-1")
    assert not Path("out").exists()
    assert "p.safetensors: exists already" in refused(*pictures, *shard[:2], "--out", shard[1])
    assert "cannot be written" in refused(*pictures, *shard[:2], "--out", "p.safetensors/model")


def test_what_predict_refuses(here: Path) -> None:
    model = ("predict", "personal.safetensors")
    assert "no such personal model" in refused("predict", "none", "p.safetensors")
    assert "no personal model" in refused("predict", "p.safetensors", "p.safetensors")
    assert "inputs [3], the model takes [1, 16, 16]" in refused(*model, "r.safetensors")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "broken.png: is not a picture" in refused(*model, "p.safetensors", "broken.png")
    assert "none.png: is not a picture" in refused(*model, "none.png")
    done("adapt", "rows", "--shard", "r.safetensors", "--out", "v.safetensors")
    rows = ("predict", "v.safetensors")
    assert "takes rows of 3 numbers" in refused(*rows, "broken.png")
    Path("t.csv").write_text("a,b,c,d\n1,2,3,4\n")
    assert "has 4 columns (a, b, c, d), the model takes 3" in refused(*rows, "t.csv")
    for bad in ("nan", "inf", "", "x"):
        Path("t.csv").write_text(f"a,b,c\n1,2,3\n4,{bad},6\n")
        assert "t.csv: line 3, column 'b'" in refused(*rows, "t.csv")


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_export_of_a_personal_model(here: Path, name: str) -> None:
    said = done("export", "personal.safetensors", "--format", name)
    path = Path("personal").with_suffix(exporting.FORMATS[name].suffix)
    assert "differs from the original by at most" in said
    assert said.endswith(f"{name}: {path}")
    run = exporting.FORMATS[name].read(path.read_bytes())
    personal = read_personal(Path("personal.safetensors"))
    x = torch.rand(9, 1, 16, 16)
    with torch.no_grad():
        each = torch.cat([run(one[None]) for one in x])  # alone, as in one batch
        torch.testing.assert_close(each, run(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each.softmax(1), personal.predict(x), rtol=1e-4, atol=1e-5)
    assert str(Path(exporting.__file__).parents[1]).encode() not in path.read_bytes()
    assert "exists already" in refused("export", "personal.safetensors", "--format", name)


def test_an_onnx_file_says_what_it_takes(here: Path) -> None:
    done("export", "personal.safetensors", "--format", "onnx", "--out", "a.onnx")
    session = onnxruntime.InferenceSession("a.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("x", ["batch", 1, 16, 16], "tensor(float)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("y", ["batch", 2])]
    assert '"dark", "bright"' in session.get_modelmeta().custom_metadata_map["fedmeta"]


def test_a_torch_file_has_no_pickle(here: Path) -> None:
    done("export", "personal.safetensors", "--format", "torch-export", "--out", "a.pt2")
    with ZipFile("a.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith("fedmeta.json") for name in members)
    assert not any(name.endswith(".pkl") for name in members)
    assert not any(b"data.pkl" in content for content in members.values())
    assert all(not content for name, content in members.items() if "sample_inputs" in name)
    for name, content in members.items():
        assert not (content.startswith(b"\x80") and content.endswith(b".")), name


def test_export_of_a_run(here: Path) -> None:
    """Its batch norms go on with the batch at hand."""
    said = done("export", "pictures", "--format", "onnx")
    assert "statistics of the batch at hand, 2 examples or more" in said
    run = exporting.FORMATS["onnx"].read(Path("pictures/params.onnx").read_bytes())
    x = torch.rand(6, 1, 16, 16)
    assert float((run(x)[:3] - run(x[:3])).abs().max()) > 1e-4
    assert "batch at hand" not in done("export", "rows", "--format", "torch-export")


def test_float64_goes_to_the_edge_as_float32(here: Path) -> None:
    finished(here / "fine", ROWS + "engine: {dtype: float64}\n")
    done("export", "fine", "--format", "onnx")
    session = onnxruntime.InferenceSession("fine/params.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)"


def test_executorch(here: Path) -> None:
    if find_spec("executorch") is None:
        pytest.skip("executorch is not installed; pip install 'fedmeta[executorch]'")
    assert "up to 64 examples" in done("export", "personal.safetensors", "--format", "executorch")
    run = exporting.FORMATS["executorch"].read(Path("personal.pte").read_bytes())
    x = torch.rand(1, 1, 16, 16)
    expected = read_personal(Path("personal.safetensors")).predict(x)
    torch.testing.assert_close(run(x).softmax(1), expected, rtol=1e-4, atol=1e-5)


def test_what_export_refuses(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = ("export", "personal.safetensors", "--format")
    assert "must be one of onnx, torch-export, executorch, got 'tflite'" in refused(
        *export, "tflite"
    )
    monkeypatch.setattr("fedmeta.packages.find_spec", lambda name: None)
    assert "pip install 'fedmeta[export]'" in refused(*export, "onnx")
    assert "pip install 'fedmeta[executorch]'" in refused(*export, "executorch")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert "no personal model" in refused("export", "p.safetensors", "--format", "torch-export")
    (here / "rows" / PARAMS).unlink()
    assert "finish the run" in refused("export", "rows", "--format", "torch-export")
    assert "cannot be written" in refused(*export, "torch-export", "--out", "p.safetensors/a.pt2")


@pytest.mark.parametrize(("factor", "words"), [
    (1.01, "differs from the original by"), (float("nan"), "differs from the original by nan"),
    (None, "cannot be exported to .pt2 (of no use)"),
])  # fmt: skip
def test_a_file_that_answers_otherwise_is_not_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, factor: float | None, words: str
) -> None:
    form = exporting.FORMATS["torch-export"]

    def read(content: bytes) -> exporting.Run:
        if factor is None:
            raise RuntimeError("of no use\nat all")
        run = form.read(content)
        return lambda x: run(x) * factor

    monkeypatch.setitem(exporting.FORMATS, "torch-export", replace(form, read=read))
    result = fedmeta("export", "personal.safetensors", "--format", "torch-export")
    assert result.exit_code == 1
    assert words in result.stderr
    assert not Path("personal.pt2").exists()


def test_the_model_carries_no_example(here: Path) -> None:
    tensors, header = read_checkpoint(Path("personal.safetensors"))
    assert not any(value.dtype == torch.uint8 for value in tensors.values())
    assert set(header) == {
        "format", "config", "classes", "steps", "client", "shard", "sha256",
    }  # fmt: skip
