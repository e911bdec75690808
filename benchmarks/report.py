"""docs/benchmarks.md from what was measured.

python -m benchmarks.report
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.picture import draw
from benchmarks.results import RESULTS, read
from benchmarks.work import WORKS

PAGE, PICTURE = Path("docs/benchmarks.md"), Path("docs/images/benchmarks.png")
OURS = "fedmeta auto"
PEERS = {"loop": "loop in torch", "jax": "JAX", "pfl": "pfl", "fedjax": "FedJAX"}
HEAD = """# Benchmarks

Written by `make bench`; the numbers are in [benchmarks.json](benchmarks.json). To measure a part again:

```
make bench                                                        # everything, about two hours of two cores
.venv/bin/python -m benchmarks.compare_engines --only mlp-maml --repeats 9
.venv/bin/python -m benchmarks.end_to_end --only mlp-maml
.venv/bin/python -m benchmarks.overhead
.venv/bin/python -m benchmarks.memory
.venv/bin/python -m benchmarks.report                             # this page from the numbers
```

What limits each of them is in [engines.md](engines.md#where-the-time-goes).

![Clients per second of the engines of five packages](images/benchmarks.png)
"""
ENGINES = """
## Engines

One round of a cohort with data and params in memory, one core and one thread for each. Every package has
the same model, params, episodes and rule; before it is timed its update is compared with what fedmeta's
loop finds in float64, and one that is off is not timed. The peers are processes that take turns on one
core; numbers are medians. Inputs are noise of the right shapes, for sines real sines: the arithmetic does
not depend on them. Nets without convolutions have no norm. Conv-4 has 64 filters and 28x28 images;
classification is 5-way 1-shot with 15 queries per class, `strided` with one. MAML is second order with
one inner step; Reptile takes its steps on all rows at once.

"loop in torch" is the faster of what a researcher writes: `functional_call` and `autograd.grad`, or
TorchOpt's functional SGD or its `MetaSGD`. JAX is the fastest of `jit(vmap(grad))`, `jit(grad(vmap))`,
`jit(scan)`, and a jitted client in a loop. pfl and FedJAX run their own federated averaging, which with
server rate 1 is Reptile; they have no meta-gradients. "x" is how often fedmeta is as fast.

"of GEMM" is fedmeta's share of what a product of 1024x1024 float32 matrices reaches in the same minutes,
by MKL or oneDNN, whichever is faster, with the additions and multiplications that the *loop* would need:
work that an engine avoids raises it.
"""
DETAILS = """
### Every variant

"error" is the greatest difference to the loop in float64, relative to the greatest number: rounding is
1e-6, and a ReLU or pooling that ties but for rounding makes it some 1e-4. "before" are the seconds until
the first round was there: tracing, compilation, fedmeta's search for an engine with all it tries. A variant
that takes more than three times as long as the fastest of its package is timed once.
"""
END_TO_END = """
## Whole rounds on two cores

From sampling to the new params, with messages, data and, in fedmeta, a checkpoint every round. fedmeta is
`fedmeta run` with 100,000 registered clients, whose episodes it draws anew every round; Flower's own
simulation engine has a node for every client, a plain loop in torch in its ClientApp, its episodes in
memory already, and the strategy FedAvg. The first round, in which engines are chosen and workers start,
is not counted.
"""
NOTHING = """
## Clients that learn nothing

1,000 clients a round, two Ray workers, params of 10 KB (Flower: 7 KB).
"""
MEMORY = """
## Memory

50 rounds of 1,000 of 100,000 registered clients; all processes of the run together, Ray's own among them,
pages that they share counted once.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def rate(found: dict[str, Any], row: dict[str, Any]) -> str:
    """Clients per second with their range, or why there are none."""
    if "median" not in row:
        return f"not run: {row.get('not_run', 'no reason given')}"
    middle, least, most = (
        _number(found["clients"] / row[key]) for key in ("median", "most", "least")
    )
    return f"{middle} [{least}, {most}]"


def best(found: dict[str, Any], package: str) -> tuple[str, dict[str, Any]]:
    """The fastest variant of a package, else one that says why none ran."""
    rows = {n: r for n, r in found["rows"].items() if n.startswith(f"{package} ")}
    timed = {name: row for name, row in rows.items() if "median" in row}
    if timed:
        return min(timed.items(), key=lambda item: float(item[1]["median"]))
    return next(iter(rows.items()), ("", {}))


def engine_row(found: dict[str, Any]) -> list[str]:
    """One work, all packages."""
    ours = found["rows"][OURS]
    line = [f"{found['title']}, {found['clients']} clients"]
    if "median" not in ours:
        return [*line, rate(found, ours), "", *["" for _ in PEERS]]
    speed = found["clients"] / ours["median"]
    part = speed * found["flops_per_client"] / found["gemm_flops_per_second"]
    return [*line, _number(speed), f"{100 * part:.0f} %", *(_against(found, p) for p in PEERS)]


def _against(found: dict[str, Any], package: str) -> str:
    _, row = best(found, package)
    if "median" not in row:
        return "not run" if row else ""
    times = row["median"] / found["rows"][OURS]["median"]
    return f"{_number(found['clients'] / row['median'])} ({times:.2g}x)"


def engines(works: dict[str, Any]) -> str:
    """Both tables."""
    head = ["work, clients/s", "fedmeta", "of GEMM", *PEERS.values()]
    first = table(head, [engine_row(found) for found in works.values()])
    details = table(
        ["variant", "clients/s [slowest, fastest]", "error", "before", "how"],
        [line for found in works.values() for line in variants(found)],
    )
    return ENGINES + first + DETAILS + details


def variants(found: dict[str, Any]) -> list[list[str]]:
    """One work, every variant."""
    gemm = f"GEMM {found['gemm_flops_per_second'] / 1e9:.0f} Gflop/s"
    flops = f"{found['flops_per_client'] / 1e6:,.1f} Mflop a client"
    lines = [[f"**{found['title']}**", "", "", "", f"{flops}, {gemm}"]]
    for name, row in found["rows"].items():
        error = f"{row['error']:.0e}" if "error" in row else ""
        first = f"{row['first']:.1f} s" if "first" in row else ""
        lines.append([name, rate(found, row), error, first, row.get("note", "")])
    return lines


def end_to_end(works: dict[str, Any]) -> str:
    """All works but the one that learns nothing."""
    learn = {name: found for name, found in works.items() if name != "identity"}
    names = list(dict.fromkeys(name for found in learn.values() for name in found["rows"]))
    rows = [
        [f"{found['title']}, {found['clients']} clients"]
        + [rate(found, found["rows"][name]) for name in names]
        + [_scaling(found["rows"]), _times(found["rows"])]
        for found in learn.values()
    ]
    return END_TO_END + table(["work, clients/s", *names, "2 workers / 1", "x"], rows)


def _scaling(rows: dict[str, Any]) -> str:
    """How much faster two Ray workers are than one."""
    one = rows.get("fedmeta, one Ray worker", {}).get("median")
    two = rows.get("fedmeta, two Ray workers", {}).get("median")
    return f"{one / two:.2f}x" if one and two else ""


def _times(rows: dict[str, Any]) -> str:
    """How often the fastest of ours is as fast as Flower's engine."""
    ours = [r["median"] for n, r in rows.items() if n.startswith("fedmeta") and "median" in r]
    theirs = [r["median"] for n, r in rows.items() if n.startswith("Flower") and "median" in r]
    return f"{theirs[0] / min(ours):.3g}x" if ours and theirs else ""


def overhead(results: dict[str, Any]) -> str:
    """What a client costs that learns nothing."""
    rows = []
    for replies, row in results.get("overhead", {}).get("identity", {}).items():
        if replies != "machine":
            rows.append([f"fedmeta, replies: {replies}", _milliseconds(row, 1)])
    found = results.get("end_to_end", {}).get("identity")
    for name, row in (found["rows"] if found else {}).items():
        rows.append([name, _milliseconds(row, found["clients"])])
    return NOTHING + table(["", "ms per client [fastest, slowest]"], rows) if rows else ""


def _milliseconds(row: dict[str, Any], clients: int) -> str:
    if "median" not in row:
        return f"not run: {row.get('not_run', 'no reason given')}"
    values = (f"{1000 * row[key] / clients:.3g}" for key in ("median", "least", "most"))
    return "{} [{}, {}]".format(*values)


def memory(works: dict[str, Any]) -> str:
    """Whether it grows."""
    rows = [[name, f"{m['half']:,.0f}", f"{m['most']:,.0f}"] for name, m in works.items()]
    return MEMORY + table(["", "MB, rounds 1 to 25", "MB, rounds 1 to 50"], rows) if rows else ""


def circumstances(results: dict[str, Any]) -> str:
    """Machine and versions; of several days the last."""
    parts = [
        found for kind in ("engines", "end_to_end") for found in results.get(kind, {}).values()
    ]
    machine = parts[-1]["machine"]
    versions = {name: v for found in parts for name, v in found["versions"].items()}
    packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"\nMachine: {machine['processor']}, {machine['cores']} cores, {machine['system']}, on the CPU; "
        f"Python {machine['python']}; {machine['date']}. Packages: {packages}.\n"
    )


def _in_order(works: dict[str, Any]) -> dict[str, Any]:
    """As they stand in ``WORKS``, whenever they were measured."""
    names = [work.name for work in WORKS if work.name in works]
    return {name: works[name] for name in names} | works


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Write the page."""
    results = read(RESULTS)
    for kind in ("engines", "end_to_end"):
        results[kind] = _in_order(results.get(kind, {}))
    parts = [HEAD, circumstances(results), engines(results.get("engines", {}))]
    parts += [end_to_end(results.get("end_to_end", {})), overhead(results)]
    PAGE.write_text("".join([*parts, memory(results.get("memory", {}))]))
    draw(results.get("engines", {}), PICTURE)


if __name__ == "__main__":
    main()
