"""The picture of sinusoid regression: three unseen clients before and after adaptation."""

from itertools import islice
from typing import Any

import numpy as np
import torch

from fedmeta.checkpoint import read_checkpoint
from fedmeta.data.sinusoid import Sinusoid
from fedmeta.initial import objective
from fedmeta.tracking.plots import BLUE, GREY, ORANGE
from fedmeta.tracking.recorder import Row, Run
from fedmeta.types import Params
from strategies.state import PARAMS

CLIENTS = 3


class SinusoidPicture:
    """``plots/adaptation_on_clients.png``: true curve, support points, before, and after some steps."""

    def start(self, run: Run) -> None:
        """Remember the run."""
        self._run = run

    def record(self, row: Row) -> None:
        """Nothing to see until the end."""

    def finish(self, summary: Row | None) -> None:
        """Draw, with the params that the test clients saw."""
        if summary is None or "test" not in summary:
            return
        from matplotlib.figure import Figure

        params, _ = read_checkpoint(self._run.folder / PARAMS)
        count = min(CLIENTS, summary["test"]["clients"])
        figure = Figure(figsize=(3.2 * count, 3.4), dpi=120, layout="constrained")
        for client, axes in enumerate(figure.subplots(1, count, sharey=True, squeeze=False)[0]):
            self._draw(axes, client, params)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(f"{self._run.experiment.name}: adaptation on unseen clients")
        figure.savefig(self._run.folder / "plots" / "adaptation_on_clients.png")

    def _draw(self, axes: Any, index: int, params: Params) -> None:
        experiment = self._run.experiment
        dtype = experiment.engine.torch_dtype
        assert isinstance(experiment.data, Sinusoid)
        federation = experiment.data.open(experiment.seed, torch.device("cpu"), dtype)
        client = np.array([federation.clients("test")[index]])
        support = federation.draw(client, 1, experiment.seed, "evaluate").draw(0).draw(0).support
        grid = torch.linspace(-5, 5, 200, dtype=dtype)[:, None]
        amplitude, phase, frequency = (float(part[0]) for part in federation.wave(client))
        axes.plot(
            grid, amplitude * torch.sin(frequency * grid - phase), color="black", label="true curve"
        )
        judge, most = objective(experiment), experiment.evaluation.steps
        path = experiment.learner.trajectory(judge, params, support, most)
        styles = {
            0: (GREY, "before"),
            1: (ORANGE, "after 1 step"),
            most: (BLUE, f"after {most} steps"),
        }
        for step, adapted in enumerate(islice(path, most + 1)):
            if step in styles:
                colour, label = styles[step]
                axes.plot(grid, judge.predict(adapted, grid), "--", color=colour, label=label)
        axes.plot(support.x, support.y, "o", color="black", markersize=4, label="support")
        axes.set_title(f"client {client[0]}", fontsize=10)
        axes.set_xlabel("x")
        axes.set_ylabel("y" if index == 0 else "")
