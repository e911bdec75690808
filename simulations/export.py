"""Models for the edge: in another format, and checked against the original before they are written."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from json import dumps
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fedmeta.baked import batch_norms
from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.packages import require

Run = Callable[[Tensor], Tensor]
MOST_EXAMPLES = 64
"""Of one call, where a format plans its memory ahead."""
TOLERANCE = 1e-4
"""Part of the greatest output by which a format may differ: other sums of float32."""


@dataclass(frozen=True)
class Model:
    """What is exported."""

    module: nn.Module
    input_shape: tuple[int, ...]
    about: dict[str, Any]
    """For whoever finds the file; formats that have a place for it carry it."""

    @property
    def least(self) -> int:
        """Examples that a call needs: batch norm of the batch at hand has no use for one alone."""
        norms = batch_norms(self.module).values()
        return 2 if any(norm.running_mean is None for norm in norms) else 1

    def examples(self, count: int) -> Tensor:
        """Random inputs: bright pixels of images, standard normal numbers else."""
        generator = torch.Generator().manual_seed(count)
        draw = torch.rand if len(self.input_shape) == 3 else torch.randn
        return draw(count, *self.input_shape, generator=generator)


@dataclass(frozen=True)
class Format:
    """A way to write a model, and to run what was written."""

    suffix: str
    extra: str
    packages: tuple[str, ...]
    write: Callable[[Model], bytes]
    read: Callable[[bytes], Run]
    most: int | None = None
    """Examples of one call."""


@dataclass(frozen=True)
class Exported:
    """A model in another format, and by how much it differs from the original."""

    content: bytes
    difference: float
    """The greatest, over all outputs."""
    scale: float
    """The greatest output."""
    examples: tuple[int, ...]
    """Of the calls that were compared."""
    least: int
    most: int | None

    @property
    def remarks(self) -> list[str]:
        """What a person should know of it."""
        sizes = " and ".join([", ".join(map(str, self.examples[:-1])), str(self.examples[-1])])
        about = [
            f"checked with {sizes} random examples: differs from the original by at most "
            f"{self.difference:.2g}, where the greatest output is {self.scale:.2g}"
        ]
        if self.least > 1:
            about.append("batch norm takes the statistics of the batch at hand, 2 examples or more")
        if self.most:
            about.append(f"takes up to {self.most} examples a call")
        return about


def format_named(name: str) -> Format:
    """The format, with what it needs installed. Raises ConfigError."""
    if name not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {name!r}")
    require(f"--format {name}", FORMATS[name].extra, *FORMATS[name].packages)
    return FORMATS[name]


def export(model: Model, form: Format) -> Exported:
    """The model in float32, run in its new form beside the original on batches of several sizes.

    Raises FedmetaError where they differ.
    """
    sizes = (model.least, 3, form.most or 17)
    with _quiet(), torch.no_grad():
        try:
            content = form.write(model)
            run = form.read(content)
            pairs = [(model.module(x), run(x)) for x in map(model.examples, sizes)]
        except Exception as e:  # many kinds, of three libraries
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise FedmetaError(f"this model cannot be exported to {form.suffix} ({reason})") from e
    difference = max(_gap(a, b) for a, b in pairs)
    scale = max(float(a.abs().max()) for a, _ in pairs)
    if not difference <= TOLERANCE * max(scale, 1.0):
        raise FedmetaError(
            f"the {form.suffix} differs from the original by {difference:.3g}, where the greatest "
            f"output is {scale:.3g}; nothing was written"
        )
    return Exported(content, difference, scale, sizes, model.least, form.most)


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else inf


def _program(model: Model, most: int | None = None) -> ExportedProgram:
    """The traced model, for any number of examples; without what else torch would write of it."""
    batch = Dim("batch", min=model.least, max=most)
    traced = torch.export.export(model.module, (model.examples(3),), dynamic_shapes=({0: batch},))
    traced.example_inputs = None  # all in the file that would be a pickle
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # has the paths of this machine
    return traced


def _write_onnx(model: Model) -> bytes:
    found = torch.onnx.export(
        _program(model),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert found is not None
    found.model.metadata_props["fedmeta"] = dumps(model.about)
    content: bytes = found.model_proto.SerializeToString()
    return content


def _read_onnx(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])


def _write_torch(model: Model) -> bytes:
    file = BytesIO()
    torch.export.save(_program(model), file, extra_files={"fedmeta.json": dumps(model.about)})
    return file.getvalue()


def _read_torch(content: bytes) -> Run:
    run: Run = torch.export.load(BytesIO(content)).module()
    return run


def _write_executorch(model: Model) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    traced = _program(model, MOST_EXAMPLES)
    lowered = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def _read_executorch(content: bytes) -> Run:
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(content)
    method = loaded.load_method("forward")

    def run(x: Tensor, alive: Any = (content, loaded)) -> Tensor:  # the method points into both
        output: Tensor = method.execute([x])[0]
        return output.clone()  # the next call writes into the same memory

    return run


FORMATS = {
    "onnx": Format(
        ".onnx", "export", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx
    ),
    "torch-export": Format(".pt2", "export", (), _write_torch, _read_torch),
    "executorch": Format(
        ".pte", "executorch", ("executorch",), _write_executorch, _read_executorch, MOST_EXAMPLES
    ),
}
"""``torch-export`` files hold tensors and JSON, no pickle. But ``torch.export.load`` would unpickle one
that a stranger put in, so it is for files of one's own. ``executorch`` is lowered to XNNPACK."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own deprecated calls, and log what they skip."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
