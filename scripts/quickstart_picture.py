"""The picture of README.md from a run of the quickstart: learning curve above, unseen clients below.

python scripts/quickstart_picture.py RUN docs/images/quickstart.png
"""

import io
import sys
from pathlib import Path

from PIL import Image

from fedmeta.run_folder import read_lines
from fedmeta.tracking.plots import learning_curve


def draw(run: Path, out: Path) -> None:
    """Stack the two pictures, in a palette of 64 colours to keep the file small."""
    below = Image.open(run / "plots/adaptation_on_clients.png").convert("RGB")
    figure = learning_curve(
        read_lines(run / "metrics.jsonl"), "quickstart: rounds of meta-training"
    )
    figure.set_size_inches(below.width / figure.dpi, 3.2)
    figure.axes[0].set_ylabel("query loss,\nunseen validation clients")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    above = Image.open(content).convert("RGB")
    whole = Image.new("RGB", (below.width, above.height + below.height), "white")
    whole.paste(above, (0, 0))
    whole.paste(below, (0, above.height))
    out.parent.mkdir(parents=True, exist_ok=True)
    whole.quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
