"""The paper's memory ablation, measured: one layer's step under every combination of M, U and S.

Contract: every row runs the same step; bytes come from the trace of that very step and are checked
against the policy's own ledger. ablation.json is complete after every row, so that an interrupted
run keeps the rows it has.
Boundary: runs and measures; it prints nothing and draws nothing. Source: eDKM (arXiv 2309.00964)
Table 2.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from edkm.dkm import ClusterResult, cluster_weight, dense_dkm, fused_dkm
from edkm.saved import SavedTensorPolicy
from profiler.ablation_rows import CONFIGS, AblationSettings, Switches
from profiler.memory import PeakRss
from profiler.query import Run, open_run
from profiler.tracer import Tracer
from profiler.workloads import ClusteredMatrix, Workload

Progress = Callable[[str], None]


def run_ablation(
    workload: Workload, settings: AblationSettings, tracer: Tracer, progress: Progress
) -> dict[str, Any]:
    """Measure every row and write ablation.json into the tracer's run folder.

    Args:
        workload: the step to run.
        settings: rows and sizes.
        tracer: entered; its run folder takes the trace and ablation.json.
        progress: told the name of every phase as it starts.

    Returns:
        The contents of ablation.json.
    """
    tracer.register(workload.model)
    result = _header(workload, settings)
    references: list[Tensor] | None = None
    with open_run(tracer.writer.path) as run:
        for name in settings.configs:
            progress(f"row {name}")
            with _timed(result, name):
                row = _measure(CONFIGS[name], workload, settings, tracer, run)
            if references is None:
                progress("float64 reference gradient")
                with _timed(result, "reference"), tracer.paused():
                    references = workload.references(settings.iterations)
            result["forms"][name] = {m.name: m.form for m in workload.matrices}
            row["grad_rel_error"] = _relative_error(workload, references)
            _forget_gradients(workload)
            result["rows"].append(row)
            _add_reductions(result["rows"])
            tracer.writer.write_json("ablation.json", result)
    return result


def _header(workload: Workload, settings: AblationSettings) -> dict[str, Any]:
    first = workload.matrices[0]
    return {
        "schema": 1,
        "layer": settings.layer,
        "matrix": first.name if len(workload.matrices) == 1 else "all",
        "shape": list(first.shape) if len(workload.matrices) == 1 else None,
        "matrices": [{"name": m.name, "shape": list(m.shape)} for m in workload.matrices],
        "dtype": str(workload.weight(first).dtype).removeprefix("torch."),
        "bits": settings.bits,
        "clusters": 1 << settings.bits,
        "iterations": settings.iterations,
        "learners": settings.learners,
        "device": workload.device.type,
        "simulated_host": workload.device.type == "cpu",
        "simulated_learners": settings.learners > 1,
        "tau": {m.name: m.tau for m in workload.matrices},
        "seed": settings.seed,
        "tokens": workload.tokens,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "phases": {},
        "forms": {},
        "rows": [],
    }


def _measure(
    switches: Switches, workload: Workload, settings: AblationSettings, tracer: Tracer, run: Run
) -> dict[str, Any]:
    """Run one step under one combination and read what it cost."""
    device = workload.device
    policy = switches.policy(settings.learners)
    form = cluster_weight if switches.fused else dense_dkm
    use(workload, form, policy, settings.iterations)
    with _peak(device) as peak, tracer.step(switches.name) as step:
        start = time.perf_counter()
        workload.forward()
        _wait(device)
        forward_s = time.perf_counter() - start
        held = policy.ledger.host_bytes, policy.ledger.peer_bytes
        start = time.perf_counter()
        workload.backward()
        _wait(device)
        backward_s = time.perf_counter() - start
    assert tracer.host_bytes == policy.ledger.host_bytes == 0, "a host buffer outlived backward"
    ledger = policy.ledger
    return {
        "name": switches.name,
        "marshal": switches.marshal,
        "uniquify": switches.uniquify,
        "shard": switches.shard,
        "fused": switches.fused,
        **_from_trace(run, step.step, workload.clustering_modules, held),
        "d2h_bytes": ledger.d2h_bytes,
        "h2d_bytes": ledger.h2d_bytes,
        "gathered_bytes": ledger.gathered_bytes,
        "peak_bytes": peak(),
        "forward_s": forward_s,
        "backward_s": backward_s,
    }


def warm_up(device: torch.device) -> None:
    """Run every code path once on a tiny matrix: the first row must not pay for imports."""
    weight = torch.linspace(-1, 1, 64, dtype=torch.bfloat16, device=device).requires_grad_()
    policy = SavedTensorPolicy(marshal=True, uniquify=True, shard=2, min_bytes=0)
    with policy:
        clustered = dense_dkm(weight, weight.detach()[::8].view(-1, 1), tau=0.1, iterations=1)
    clustered.clustered.sum().backward()
    fused_dkm(weight, weight.detach()[::8].view(-1, 1), tau=0.1).clustered.sum().backward()


def use(
    workload: Workload,
    form: Callable[..., ClusterResult],
    policy: SavedTensorPolicy,
    iterations: int,
) -> None:
    """Make the workload cluster its matrices in this form, under this policy."""

    def cluster(matrix: ClusteredMatrix, weight: Tensor) -> Tensor:
        with policy:
            result = form(weight, matrix.centroids, tau=matrix.tau, iterations=iterations)
        matrix.form = result.form
        return result.clustered

    for matrix in workload.matrices:
        matrix.cluster = cluster


def _from_trace(run: Run, step: int, modules: list[str], held: tuple[int, int]) -> dict[str, Any]:
    """What the clustering of one step saved, from the rows of its trace."""
    saves = run.sql(
        "select action, hops, finder, logical_bytes, host_bytes, peer_bytes, storage_id, "
        "storage_bytes, is_param from saves where step = ? and list_contains(?, module)",
        [step, modules],
    ).to_pylist()
    kept = {
        s["storage_id"]: s["storage_bytes"]
        for s in saves
        if s["action"] == "kept" and not s["is_param"]
    }
    moved = [s for s in saves if s["action"] != "kept"]
    found = [s for s in moved if s["finder"] is not None]
    host = sum(s["host_bytes"] for s in moved)
    peer = sum(s["peer_bytes"] for s in moved)
    assert (host, peer) == held, f"trace {host, peer} and ledger {held} disagree"
    hops = [s["hops"] for s in found if s["hops"] is not None]
    return {
        "saved_tensors": len(moved),
        "small_tensors": len(saves) - len(moved),
        "logical_bytes": sum(s["logical_bytes"] for s in moved),
        "host_bytes": host,
        "peer_bytes": peer,
        "device_bytes": sum(kept.values()),
        "max_hops": max(hops, default=0),
        "hops": {str(h): hops.count(h) for h in sorted(set(hops))},
        "finders": {f: sum(s["finder"] == f for s in found) for f in ("storage", "graph")},
    }


def _relative_error(workload: Workload, references: list[Tensor]) -> float:
    """Relative L2 distance of all gradients from the float64 dense ones."""
    wrong, right = 0.0, 0.0
    for matrix, reference in zip(workload.matrices, references, strict=True):
        gradient = workload.weight(matrix).grad
        assert gradient is not None
        pairs = zip(
            gradient.view(-1).split(1 << 20), reference.view(-1).split(1 << 20), strict=True
        )
        for part, expected in pairs:
            wrong += float((part.double() - expected).square().sum())
            right += float(expected.square().sum())
    return math.sqrt(wrong / right if right else wrong)


def _forget_gradients(workload: Workload) -> None:
    for parameter in workload.model.parameters():
        parameter.grad = None


def _add_reductions(rows: list[dict[str, Any]]) -> None:
    """Host bytes of `none` over each row's; null where either is missing or zero."""
    base = next((row["host_bytes"] for row in rows if row["name"] == "none"), 0)
    for row in rows:
        row["reduction"] = base / row["host_bytes"] if base and row["host_bytes"] else None


@contextlib.contextmanager
def _timed(result: dict[str, Any], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    result["phases"][phase] = time.perf_counter() - start


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Peak memory above what was there at entry: the allocator's on CUDA, resident elsewhere."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    with PeakRss() as peak:
        yield lambda: peak.growth_bytes


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
