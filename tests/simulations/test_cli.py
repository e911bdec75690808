"""Bad input is one line that names the culprit, exit code 2, and leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn
from typer.testing import CliRunner

from fedmeta.models import MODELS
from simulations.cli import app
from tests.simulations.conftest import CONFIGS, SMALL

QUICKSTART = str(CONFIGS / "quickstart.yaml")
OMNIGLOT = str(CONFIGS / "omniglot_maml.yaml")


def fedmeta(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result) -> str:
    """The one line of an error."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", f"rounds={'1' * 300}"], "give a config, or --resume RUN"),
        (["run", QUICKSTART, "--resume", "x" * 300], "x/config.yaml: File name too long"),
        (["evaluate", "x" * 300], "x/config.yaml: File name too long"),
        (["sync", "x" * 300], "x/rows: File name too long"),
    ],
)
def test_a_word_that_is_too_long_for_a_file_is_a_line(words: list[str], message: str) -> None:
    assert refused(fedmeta(*words)).endswith(message)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that has ended."""
    folder = tmp_path_factory.mktemp("finished") / "done"
    assert fedmeta("run", QUICKSTART, *SMALL, "--run-dir", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def done(here: Path, finished: Path) -> Path:
    """A copy of it in the working folder."""
    return shutil.copytree(finished, here / "done")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learner.inner_lrr=0.1"], ["learner.inner_lrr", "did you mean inner_lr?"]),
        (["lerner.inner_lr=0.1"], ["lerner", "did you mean learner?"]),
        (["learner.name=mamml"], ["learner.name", "'mamml'", "did you mean maml?"]),
        (["learner.inner_lr=fast"], ["learner.inner_lr", "'fast'", "Float"]),
        (["learner.inner_lr=-1"], ["learner.inner_lr", "> 0", "-1.0"]),
        (["learner.order=3"], ["learner.order", "'3'", "[1, 2]"]),
        (["rounds=0"], ["rounds", "1 or more", "got 0"]),
        (["strategy.lr=0"], ["strategy.lr", "> 0", "0.0"]),
        (["cohort.clients=401"], ["cohort.clients", "400 train clients", "got 401"]),
        (["evaluation.clients=101"], ["evaluation.clients", "100 val clients", "got 101"]),
        (["engine.device=gpu0"], ["engine.device", "cpu", "'gpu0'"]),
        (["data.examples=15"], ["data.examples", "client 0", "15", "10 (shots) + 10 (queries)"]),
        (["model.name=conv4", "model.hidden=null"], ["model.hidden", "filters"]),
        (["learner.adapt=[nothing.*]"], ["learner.adapt", "'nothing.*'", "linear0.weight"]),
        (["learner.adapt=legs"], ["learner.adapt", "'legs'", "lora"]),
        (["data.least_examples=41"], ["data.least_examples", "40 examples", "got 41"]),
        (["data.least_examples=19"], ["data.examples", "holds 19", "10 (queries) = 20"]),
        (["data.frequencies=[2,1]"], ["data.frequencies", "[2.0, 1.0]"]),
        (["data.evaluation.shots=0"], ["data.evaluation.shots", "1 or more", "got 0"]),
        (["data.evaluation.ways=3"], ["data.evaluation.ways", "shots, queries"]),
        (["data.evaluation=5"], ["data.evaluation", "section of settings", "got 5"]),
        (["evaluation.transductive=maybe"], ["evaluation.transductive", "'maybe'"]),
        (["published.acuracy=98"], ["published.acuracy", "did you mean accuracy?"]),
        (["learner.name=fomaml", "learner.order=2"], ["learner.order", "got 2", "maml"]),
        (["attack.name=sign_flip"], ["attack.fraction", "must be set", "got none"]),
        (["attack.fraction=0.3"], ["attack.name", "got 0.3"]),
        (["devices.slowness=equal", "devices.deadline=9"], ["deadline", "(10 s)", "got 9.0"]),
        (["engine.device=meta"], ["engine.device", "cpu", "'meta'"]),
        ([f"seed={2**64}"], ["seed", "2**63", str(2**64)]),
        (["model.hidden=[[8]]"], ["model.hidden[0]", "single value", "[8]"]),
        (["tracking.wandb.tags=[x,{a: 1}]"], ["tracking.wandb.tags[1]", "{'a': 1}"]),
        (
            ["strategy=null", "strategy={name: custom, options: [momentum, 0.9]}"],
            ["strategy.options", "section", "['momentum', 0.9]"],
        ),
    ],
)
def test_bad_settings(here: Path, overrides: list[str], words: list[str]) -> None:
    line = refused(fedmeta("run", QUICKSTART, *overrides))
    assert all(word in line for word in words), line
    assert not any(path.is_file() for path in here.rglob("*"))


class Headless(nn.Module):
    """One linear layer, by another name than head."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.only(x)
        return output


class Prototypes(Headless):
    """With distances to three points, which torch differentiates once only."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.tensor([[-1.0], [0.0], [1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(super().forward(x), self.points).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Odd:
    """A model of one's own that does not fit every learner."""

    twice: bool = True

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Headless() if self.twice else Prototypes()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learner.adapt=head"], ["learner", "head needs a head", "only.weight"]),
        (["learner.adapt=lora"], ["learner", "lora needs a head", "only.weight"]),
        (["model.twice=false"], ["learner.order: 2", "second derivatives", "cdist"]),
    ],
)
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_model_that_a_learner_finds_out_about_on_a_node(
    here: Path, monkeypatch: pytest.MonkeyPatch, engine: str, overrides: list[str], words: list[str]
) -> None:
    """The last of them only when it trains: then it is the config's fault, not all the clients'."""
    monkeypatch.setitem(MODELS, "odd", Odd)
    config = Path(QUICKSTART).read_text().replace("{name: mlp, hidden: [40, 40]}", "{name: odd}")
    (here / "odd.yaml").write_text(config)
    if "second" in words[1]:
        assert fedmeta("run", "odd.yaml", *SMALL, *overrides, "learner.order=1").exit_code == 0
    line = refused(fedmeta("run", "odd.yaml", *SMALL, f"engine.name={engine}", *overrides))
    assert all(word in line for word in words), line


@pytest.mark.usefixtures("two_ray_cpus")
def test_a_learner_that_does_not_fit_in_ray_workers(here: Path) -> None:
    ray = ("engine.executor=ray", "learner.adapt=[nothing.*]")
    line = refused(fedmeta("run", QUICKSTART, *SMALL, *ray))
    assert "learner.adapt: 'nothing.*' matches no param" in line
    assert not any(path.is_file() for path in here.rglob("*"))


def test_a_config_that_does_not_exist(here: Path) -> None:
    assert "nowhere.yaml" in refused(fedmeta("run", "nowhere.yaml"))


def test_a_run_folder_that_exists(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("precious")
    line = refused(fedmeta("run", QUICKSTART, "--run-dir", "mine"))
    assert "mine" in line
    assert "--resume" in line
    assert (here / "mine" / "thesis.txt").read_text() == "precious"


def test_a_run_folder_that_cannot_be_made(here: Path) -> None:
    (here / "file").write_text("")
    line = refused(fedmeta("run", QUICKSTART, "--run-dir", "file/run"))
    assert "file/run" in line


def test_a_log_that_cannot_be_written(done: Path) -> None:
    """A finished run whose log has become a folder, as a stand-in for any refusal of the disk."""
    (done / "log.txt").unlink()
    (done / "log.txt").mkdir()
    line = refused(fedmeta("run", "--resume", "done"))
    assert "done/log.txt: cannot be written" in line


def test_a_run_that_cannot_begin_takes_back_only_what_it_made(here: Path) -> None:
    (here / "mine").mkdir()
    refused(fedmeta("run", QUICKSTART, "engine.device=nope", "--run-dir", "mine"))
    assert (here / "mine").is_dir()
    refused(fedmeta("run", QUICKSTART, "engine.device=nope", "--run-dir", "new"))
    assert not (here / "new").exists()


def test_missing_data_says_what_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMETA_DATA", str(here))
    line = refused(fedmeta("run", OMNIGLOT, "tracking.wandb.mode=disabled"))
    assert str(here) in line
    assert "images_background" in line
    assert "unset FEDMETA_DATA" in line


def test_resume_needs_a_run_folder(here: Path) -> None:
    assert "not a run folder" in refused(fedmeta("run", "--resume", str(here)))


def test_a_checkpoint_of_another_config(done: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    line = refused(fedmeta("run", "--resume", "done", "learner.inner_lr=0.5"))
    assert "another config" in line
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before


def test_fewer_rounds_than_lie_behind(done: Path) -> None:
    assert "at least the 4 rounds" in refused(fedmeta("run", "--resume", "done", "rounds=3"))


def test_a_resumed_run_stays_in_its_folder(here: Path) -> None:
    assert "--run-dir" in refused(fedmeta("run", "--resume", "old", "--run-dir", "new"))


def test_an_init_that_diverges_on_everybody_says_so(here: Path) -> None:
    result = fedmeta("run", QUICKSTART, *SMALL, "learner.inner_lr=1e30", "--run-dir", "run")
    assert result.exit_code == 1
    assert "no val client could be scored: its scores are NaN" in result.stderr
    assert not (here / "run").exists()


def test_a_broken_checkpoint(done: Path) -> None:
    checkpoint = done / "checkpoint/state.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    assert "not a readable checkpoint" in refused(fedmeta("run", "--resume", "done"))


def test_a_full_disk_stops_with_the_last_checkpoint_whole(tmp_path: Path) -> None:
    """A limit on file size is what a full disk looks like to a process: the write comes up short."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from simulations.cli import main; main()"
    )
    wide = ["model.hidden=[64,64]", "rounds=50", "evaluation.every=50"]
    result = subprocess.run(
        [sys.executable, "-c", program, "run", QUICKSTART, *SMALL, *wide, "--run-dir", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    assert not list((tmp_path / "run").rglob(".state*")), "a half-written file was left"


def test_a_dry_run_shows_the_resolved_config_and_writes_nothing(here: Path) -> None:
    result = fedmeta("run", QUICKSTART, "learner.inner_lr=0.02", "--dry-run")
    assert result.exit_code == 0
    assert "inner_lr: 0.02" in result.output
    assert "min_replies: 1" in result.output  # a default
    assert not any(here.iterdir())


def test_list_names_everything_with_its_paper() -> None:
    result = fedmeta("list")
    assert result.exit_code == 0
    for word in (
        "maml",
        "reptile",
        "sgd",
        "conv4",
        "mlp",
        "omniglot",
        "sinusoid",
        "fedyogi",
        "vmap",
    ):
        assert word in result.output
    assert "Finn" in result.output
    assert "McMahan" in result.output


def test_evaluate_again_gives_the_same_scores(done: Path) -> None:
    assert fedmeta("evaluate", "done").exit_code == 0
    summary, again = ((done / f).read_text() for f in ("summary.json", "evaluation.json"))
    assert json.loads(summary)["test"] == json.loads(again)["test"]


def test_importing_the_command_is_quick_and_light() -> None:
    """Heavy parts wait until they are asked for."""
    program = (
        "import sys, simulations.cli;"
        "print(sorted({'ray', 'wandb', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
