"""The ablation of one layer from names and numbers to a finished run folder.

Contract: names are checked before torch is imported and memory before anything is made; a run
that is interrupted keeps the rows it has.
Boundary: calls the parts in order; measuring, drawing and printing are theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.layers import PRESETS, is_checkpoint, parse_layer

if TYPE_CHECKING:
    from profiler.ablation_rows import AblationSettings
    from profiler.workloads import Workload

STEPS_BESIDES_ROWS = 3  # weights, reference, pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """What to measure, as the user said it."""

    layer: str
    model: str
    matrix: str | None
    bits: int
    iterations: int
    learners: int
    configs: tuple[str, ...]
    text: str | None
    batch: int  # sequences per step of a checkpoint
    length: int  # tokens per sequence
    dtype: str
    device: str
    tau: float | None
    seed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """ablation.json, the pictures that were drawn, and what went wrong with the others."""

    ablation: dict[str, Any]
    pictures: list[Path]
    problems: list[str]


def run_layer(
    run: LayerRun, path: Path, tell: Callable[[str], None], *, force: bool, pictures: bool
) -> Measured:
    """Measure, write and draw.

    Args:
        run: what to measure.
        path: the run folder to make.
        tell: told the name of every phase as it starts.
        force: replace an existing run at `path`.
        pictures: draw them.

    Raises:
        ValueError: anything wrong with the request; nothing was written then.
    """
    _check_names(run)
    from profiler.ablation import run_ablation, warm_up
    from profiler.ablation_rows import AblationSettings
    from profiler.pictures import draw_ablation
    from profiler.query import open_run
    from profiler.tracer import Tracer

    settings = AblationSettings(
        layer=run.layer,
        bits=run.bits,
        iterations=run.iterations,
        learners=run.learners,
        configs=run.configs,
        seed=run.seed,
    )
    tell("weights")
    workload = _workload(run, settings)
    warm_up(workload.device)
    info = {"command": "profiler.trace", "model": run.model, "switches": {"rows": run.configs}}
    with Tracer(path, info=info, force=force) as tracer:
        result = run_ablation(workload, settings, tracer, tell)
    if not pictures:
        return Measured(result, [], [])
    tell("pictures")
    with open_run(path) as opened:
        module = workload.clustering_modules[0]
        return Measured(result, *draw_ablation(opened, module=module))


def _check_names(run: LayerRun) -> None:
    if run.tau is not None and not run.tau > 0:
        raise ValueError(f"tau {run.tau}: the softmax temperature must be above 0; try 1e-5")
    parse_layer(run.layer, _layers(run), run.matrix)


def _layers(run: LayerRun) -> int:
    """How many layers the model has."""
    if is_checkpoint(run.model):
        from profiler.checkpoint import read_config

        layers = int(read_config(run.model)["num_hidden_layers"])
        if run.text is not None and not Path(run.text).is_file():
            raise ValueError(f"text {run.text!r}: no such file; give a UTF-8 text file")
        return layers
    if run.model not in PRESETS:
        raise ValueError(
            f"model {run.model!r}: neither a preset nor a folder; presets are {', '.join(PRESETS)}"
        )
    if run.text is not None:
        raise ValueError(
            f"text {run.text!r}: the preset {run.model} has shapes but no embedding to read text "
            "with; give a checkpoint's folder as --model, or leave --text out"
        )
    return PRESETS[run.model].layers


def _workload(run: LayerRun, settings: AblationSettings) -> Workload:
    import torch

    from profiler.checkpoint import CheckpointLayer
    from profiler.fit import check_memory, pick_device
    from profiler.workloads import PresetLayer

    device = pick_device(run.device)
    common: dict[str, Any] = {
        "dtype": getattr(torch, run.dtype),
        "device": device,
        "bits": run.bits,
        "tau": run.tau,
        "seed": run.seed,
    }
    if is_checkpoint(run.model):
        return CheckpointLayer(
            run.model,
            run.layer,
            run.matrix,
            text=run.text,
            batch=run.batch,
            length=run.length,
            **common,
        )
    preset = PRESETS[run.model]
    name = parse_layer(run.layer, preset.layers, run.matrix)
    elements = sum(rows * columns for rows, columns in map(preset.shape, name.matrices))
    check_memory(elements, common["dtype"].itemsize, settings, device)
    return PresetLayer(name, preset, **common)
