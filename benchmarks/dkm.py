"""Time, saved bytes, peak memory and exactness of every form of DKM, and of Apple's coremltools.

    python benchmarks/dkm.py [--json FILE] [--sizes 4096] [--iterations 1 3] [--block] ...

Contract: all implementations run interleaved in one process on the same weight, gradient,
centroids and temperature; times are medians over the rounds. Memory peaks are the growth of the
resident set's high-water mark (Linux only, else null) over the inputs and outputs.
Boundary: measures and prints; committed results are in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from dkm_block import block
from dkm_measure import machine, passes, peak, timed
from torch import Tensor, nn

from edkm.dkm import (
    cluster_weight,
    default_tau,
    gradient_reference,
    initial_centroids,
    soft_hard_gap,
)

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
    cases += growth_cases(options) if options.growth else []
    result: dict[str, Any] = {"machine": machine(options.threads)}
    result["rows"] = [row for case in cases for row in compare(options, *case)]
    if options.growth:
        result["growth"] = growth(result["rows"])
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
    parser.add_argument(
        "--growth",
        action="store_true",
        help="also `fused` at n = 512 ... 8192, and at 1 ... 10 iterations of the first size",
    )
    parser.add_argument(
        "--reference-up-to",
        type=int,
        default=4096,
        help="largest n to compute the float64 gradient for; minutes at 8192",
    )
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
    names = options.impls if (n, iterations) in asked(options) else ["fused"]
    impls = {name: make(name, start, tau, iterations) for name in names}
    runs = {name: run for name, run in impls.items() if run is not None}
    exact = None
    if n <= options.reference_up_to:
        exact = gradient_reference(weight, start, grad, tau=tau, iterations=iterations).grad_weight
    centroids = cluster_weight(weight, start, tau=tau, iterations=iterations).centroids
    rows: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        rows[name] = {
            "impl": name, "n": n, "bits": bits, "dim": dim, "iterations": iterations,
            **saved_bytes(run, weight), **quality(run, weight, grad, exact, centroids),
            "peak_bytes": peak(partial(step, run, weight, grad), 2 * weight.nbytes),
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


def quality(
    run: Clustering, weight: Tensor, grad: Tensor, exact: Tensor | None, centroids: Tensor
) -> dict[str, float | None]:
    out = run(weight)
    (pulled,) = torch.autograd.grad(out, weight, grad)
    error = None if exact is None else float((pulled.double() - exact).norm() / exact.norm())
    return {"grad_rel_error": error, "soft_hard_gap": soft_hard_gap(out, weight, centroids)}


def asked(options: argparse.Namespace) -> set[tuple[int, int]]:
    """(n, iterations) of the cases that compare all implementations."""
    return {(n, iterations) for n in options.sizes for iterations in options.iterations}


def growth_cases(options: argparse.Namespace) -> list[tuple[int, int, int, int]]:
    """`fused` by size at one iteration, and by iterations at the first size asked for."""
    sizes = [(n, 3, 1, 1) for n in (512, 1024, 2048, 4096, 8192)]
    steps = [(options.sizes[0], 3, 1, iterations) for iterations in range(2, 11)]
    return [c for c in sizes + steps if (c[0], c[3]) not in asked(options)]


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """p of seconds ~ N**p over the sizes, N = n * n; the time of 10 iterations over that of 1."""
    total = {
        (row["n"], row["iterations"]): row["forward_s"] + row["backward_s"]
        for row in rows
        if row["impl"] == "fused"
    }
    sizes = sorted(n for n, iterations in total if iterations == 1)
    x, y = ([math.log(v) for v in values] for values in (
        [n * n for n in sizes], [total[n, 1] for n in sizes]))  # fmt: skip
    (n,) = {n for n, iterations in total if iterations == 10}
    return {
        "exponent": statistics.linear_regression(x, y).slope,
        "exponent_from_1024": statistics.linear_regression(x[1:], y[1:]).slope,
        "ten_iterations_over_one": total[n, 10] / total[n, 1],
    }


def print_tables(result: dict[str, Any]) -> None:
    print(f"{'impl':12}{'n':>6}{'bits':>5}{'dim':>4}{'iter':>5}{'fwd ms':>10}{'bwd ms':>10}"
          f"{'clones':>14}{'saved MiB':>11}{'beyond W':>10}{'peak MiB':>10}{'grad err':>10}"
          f"{'gap':>8}")  # fmt: skip
    for row in result["rows"]:
        fwd, bwd, clone = row["forward_s"], row["backward_s"], row["clone_s"]
        peaked, error = row["peak_bytes"], row["grad_rel_error"]
        print(f"{row['impl']:12}{row['n']:6}{row['bits']:5}{row['dim']:4}{row['iterations']:5}"
              f"{fwd * 1e3:10.1f}{bwd * 1e3:10.1f}{fwd / clone:7.1f}{bwd / clone:7.1f}"
              f"{row['saved_bytes'] / MIB:11.1f}{row['saved_beyond_weight_bytes'] / MIB:10.2f}"
              f"{-1 if peaked is None else peaked / MIB:10.1f}{error or math.nan:10.2g}"
              f"{row['soft_hard_gap']:8.3f}")  # fmt: skip
    for row in result.get("passes", []):
        print(f"{row['pass']:12}{row['seconds'] * 1e3:8.2f} ms{row['times_floor']:6.1f}x the floor")
    for name in ("growth", "block"):
        if name in result:
            print(f"{name}:", json.dumps(result[name]))


if __name__ == "__main__":
    main()
