"""Time, saved bytes, peak memory and exactness of every form of DKM, and of Apple's coremltools.

    python benchmarks/dkm.py [--json FILE] [--sizes 4096] [--iterations 1 3] [--block] ...

Contract: all implementations run interleaved in one process on the same weight, gradient,
centroids and temperature; times are medians over the rounds. Memory peaks are the growth of the
resident set's high-water mark (Linux only, else null) over the inputs and outputs.
Boundary: measures and prints; committed results are in benchmarks/results.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edkm.dkm import (
    DKMConfig,
    cluster_weight,
    default_tau,
    gradient_reference,
    initial_centroids,
    soft_hard_gap,
)
from edkm.dkm.kernels import passes_for
from edkm.nn import cluster_linears

Clustering = Callable[[Tensor], Tensor]
MIB = 1 << 20


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    cases = [
        (n, bits, dim, iterations)
        for n in options.sizes
        for bits in options.bits
        for dim in options.dims
        for iterations in options.iterations
    ]
    rows = [row for case in cases for row in compare(options, *case)]
    result: dict[str, Any] = {"machine": machine(options.threads), "rows": rows}
    if options.passes:
        result["passes"] = passes(max(options.sizes), options.rounds)
    if options.block:
        result["block"] = block(options.rounds)
    print_tables(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096], help="n of n x n weights")
    parser.add_argument("--bits", type=int, nargs="+", default=[3])
    parser.add_argument("--dims", type=int, nargs="+", default=[1])
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 3])
    parser.add_argument(
        "--impls", nargs="+", default=["dense", "fused", "streaming", "coremltools"]
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians count")
    parser.add_argument("--fast-rounds", type=int, default=15, help="further rounds of `fused`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--passes", action="store_true", help="each pass against a clone")
    parser.add_argument("--block", action="store_true", help="a LLaMA-shaped block's step")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args()


def compare(
    options: argparse.Namespace, n: int, bits: int, dim: int, iterations: int
) -> list[dict[str, Any]]:
    """One row an implementation, for one n x n bfloat16 weight."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(n, n, generator=generator) * 0.02).bfloat16().requires_grad_()
    grad = torch.randn(n, n, generator=generator).bfloat16()
    start = initial_centroids(weight, 2**bits, dim)
    tau = default_tau(weight, 2**bits, dim)
    impls = {name: make(name, start, tau, iterations) for name in options.impls}
    runs = {name: run for name, run in impls.items() if run is not None}
    reference = gradient_reference(weight, start, grad, tau=tau, iterations=iterations)
    rows: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        rows[name] = {
            "impl": name, "n": n, "bits": bits, "dim": dim, "iterations": iterations,
            **saved_bytes(run, weight), **quality(run, weight, grad, reference),
            "peak_bytes": peak(lambda run=run: step(run, weight, grad), 2 * weight.nbytes),
        }  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    clones: list[float] = []
    for turn in range(options.rounds + options.fast_rounds):
        clones.append(timed(weight.detach().clone))
        for name, run in runs.items():
            if turn < options.rounds or name == "fused":
                times[name].append(step(run, weight, grad))
    for name, row in rows.items():
        row["forward_s"], row["backward_s"] = map(statistics.median, zip(*times[name], strict=True))
        row["clone_s"] = statistics.median(clones)
    return list(rows.values())


def make(name: str, start: Tensor, tau: float, iterations: int) -> Clustering | None:
    """The implementation as weight -> clustered weight; None if it cannot run here."""
    dim = start.shape[1]
    if name == "coremltools":
        return coremltools_dkm(start, tau, iterations) if find_spec(name) else None
    if name == "fused" and dim != 1:
        return None

    def run(weight: Tensor) -> Tensor:
        return cluster_weight(weight, start, tau=tau, iterations=iterations, form=name).clustered

    return run


def coremltools_dkm(start: Tensor, tau: float, iterations: int) -> Clustering:
    """Apple's own DKM, past its initialisation of several minutes, on our centroids."""
    logging.disable(logging.WARNING)  # it warns of untested torch versions at every import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coremltools.optimize.torch.palettization import (
            DKMPalettizer,
            DKMPalettizerConfig,
        )

        config = DKMPalettizerConfig.from_dict({
            "global_config": {
                "n_bits": int(start.shape[0]).bit_length() - 1, "cluster_dim": start.shape[1],
                "weight_threshold": 0, "milestone": 0, "kmeans_max_iter": iterations,
                "palett_epsilon": 0.0,
                            "prune_threshold": 0.0, "palett_tau": tau,
            }
        })  # fmt: skip
        model = nn.Sequential(nn.Linear(64, 64, bias=False))
        palettizer = DKMPalettizer(model, config)
        prepared = palettizer.prepare()
        prepared.train()
        palettizer.step()
    fake = prepared[0].weight_fake_quant

    def run(weight: Tensor) -> Tensor:
        fake.centroids = [start.to(weight.dtype)]
        clustered: Tensor = fake(weight)
        return clustered

    return run


def step(run: Clustering, weight: Tensor, grad: Tensor) -> tuple[float, float]:
    """Seconds of one forward and one backward."""
    began = time.perf_counter()
    out = run(weight)
    middle = time.perf_counter()
    torch.autograd.grad(out, weight, grad)
    return middle - began, time.perf_counter() - middle


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def saved_bytes(run: Clustering, weight: Tensor) -> dict[str, int]:
    """What autograd saves: all saves, and unique storages other than the weight's."""
    total, storages = 0, {}

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(weight)
    storages.pop(weight.untyped_storage().data_ptr(), None)
    del out
    return {"saved_bytes": total, "saved_beyond_weight_bytes": sum(storages.values())}


def quality(run: Clustering, weight: Tensor, grad: Tensor, reference: Any) -> dict[str, float]:
    out = run(weight)
    (pulled,) = torch.autograd.grad(out, weight, grad)
    exact = reference.grad_weight
    return {
        "grad_rel_error": float((pulled.double() - exact).norm() / exact.norm()),
        "soft_hard_gap": soft_hard_gap(out, weight, reference.centroids),
    }


def peak(work: Callable[[], object], results: int) -> int | None:
    """Growth of the resident set's high-water mark during ``work``, less its results' bytes."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # memory freed but kept would hide a growth
        ctypes.CDLL(None).malloc_trim(0)
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")
    before = status("VmRSS")
    work()
    return max(0, status("VmHWM") - before - results)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def passes(n: int, rounds: int) -> list[dict[str, Any]]:
    """Each pass over an n x n weight, and how many clones' time its bytes would take."""
    weight, grad = (torch.randn(n * n).mul(0.02).bfloat16() for _ in range(2))
    table, slope = torch.zeros(65_536).bfloat16(), torch.ones(65_536)
    work, out = passes_for(weight.device), torch.empty_like(weight)
    cases: dict[str, tuple[Callable[[], object], float]] = {
        "clone": (weight.clone, 2), "copy": (lambda: out.copy_(weight), 2),
        "histogram": (lambda: work.histogram(weight), 1),
        "lookup": (lambda: work.lookup(weight, table, out), 2),
        "segment_sum": (lambda: work.segment_sum(weight, grad), 2),
        "gradient": (lambda: work.gradient(weight, grad, slope, slope, out), 3),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(5 * rounds):
        for name, (run, _) in cases.items():
            times[name].append(timed(run))
    floor = statistics.median(times["copy"]) / 2  # seconds to read or write a weight once
    return [
        {"pass": name, "seconds": (median := statistics.median(times[name])),
         "floor_seconds": floor * units, "times_floor": median / (floor * units)}
        for name, (_, units) in cases.items()
    ]  # fmt: skip


class Block(nn.Module):
    """A LLaMA-shaped block: hidden 2048, 16 heads, SwiGLU of 5632, pre-norms."""

    def __init__(self, hidden: int = 2048, inner: int = 5632) -> None:
        super().__init__()
        for name in "qkvo":
            setattr(self, name, nn.Linear(hidden, hidden, bias=False))
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)
        self.first, self.second = nn.RMSNorm(hidden), nn.RMSNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        q, k, v = (getattr(self, name)(h).unflatten(-1, (16, -1)).transpose(1, 2) for name in "qkv")
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        h = self.second(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


def block(rounds: int) -> dict[str, Any]:
    """Clustered against plain: a training step (forward, backward, SGD) on 512 tokens."""
    x = torch.randn(1, 512, 2048).bfloat16()
    result: dict[str, Any] = {}
    steps: dict[str, Callable[[], None]] = {}
    for name in ("plain", "clustered"):
        torch.manual_seed(0)
        model = Block().bfloat16()
        if name == "clustered":
            cluster_linears(model, DKMConfig(bits=3, iterations=1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

        def train(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            model(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        train()  # centroids, compiled loops
        steps[name] = train
        held = sum(p.nbytes for p in model.parameters()) + x.nbytes
        result[name] = {"peak_bytes": None, "held_bytes": held}
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(max(5, rounds)):
        for name, train in steps.items():
            grown = peak(train, 0)
            peaks[name] += [] if grown is None else [grown]
            times[name].append(timed(train))
    for name, row in result.items():
        row["step_s"] = statistics.median(times[name])
        if peaks[name]:
            row["peak_bytes"] = row["held_bytes"] + statistics.median(peaks[name])
    plain, ours = result["plain"], result["clustered"]
    result["time_ratio"] = ours["step_s"] / plain["step_s"]
    if plain["peak_bytes"]:
        result["peak_ratio"] = ours["peak_bytes"] / plain["peak_bytes"]
    return result


def machine(threads: int) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("numba", "coremltools"):
        if find_spec(name):
            from importlib.metadata import version

            versions[name] = version(name)
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "versions": versions,
            "load_before": os.getloadavg()[0]}  # fmt: skip


def print_tables(result: dict[str, Any]) -> None:
    print(f"{'impl':12}{'n':>6}{'bits':>5}{'dim':>4}{'iter':>5}{'fwd ms':>10}{'bwd ms':>10}"
          f"{'clones':>14}{'saved MiB':>11}{'beyond W':>10}{'peak MiB':>10}{'grad err':>10}"
          f"{'gap':>8}")  # fmt: skip
    for row in result["rows"]:
        fwd, bwd, clone = row["forward_s"], row["backward_s"], row["clone_s"]
        peaked = row["peak_bytes"]
        print(f"{row['impl']:12}{row['n']:6}{row['bits']:5}{row['dim']:4}{row['iterations']:5}"
              f"{fwd * 1e3:10.1f}{bwd * 1e3:10.1f}{fwd / clone:7.1f}{bwd / clone:7.1f}"
              f"{row['saved_bytes'] / MIB:11.1f}{row['saved_beyond_weight_bytes'] / MIB:10.2f}"
              f"{-1 if peaked is None else peaked / MIB:10.1f}{row['grad_rel_error']:10.2g}"
              f"{row['soft_hard_gap']:8.3f}")  # fmt: skip
    for row in result.get("passes", []):
        print(f"{row['pass']:12}{row['seconds'] * 1e3:8.2f} ms{row['times_floor']:6.1f}x the floor")
    if "block" in result:
        print("block:", json.dumps(result["block"]))


if __name__ == "__main__":
    main()
