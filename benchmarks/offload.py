"""What offloaders move and hold: none, torch's save_on_cpu, TRL's, and edkm's, on LLaMA blocks.

    python benchmarks/offload.py [--runs 3] [--threads 1] [--data DIR] [--json] [--out FILE]

As it stands: 4 blocks of hidden size 1024 and of 2048, and stories3M, on 2 x 256 tokens. Every row
is one training step (forward and backward) of one model under one offloader, in one process; times
are medians of `--runs` steps that are interleaved between the offloaders. `cpu_s` is the time that
the process was running, for machines that are busy with other work. Bytes: `floor` is the distinct
storages that autograd saves, parameters and buffers left out, counted by plain hooks; `host` is
held after forward; `stays` is what of that floor is still on the device after forward. On a machine
without an accelerator the "device" is CPU memory: the bytes are real, there is no bus, nothing
overlaps, and save_on_cpu's copies (which would be none, since the tensors are on the CPU already)
are made as it makes them on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from offload_cases import DEVICE, KINDS_OF_CASE, Case, Sizes, cases
from offload_measure import SaveOnCpu, Step, saved_storages, step
from torch import nn
from transformers.utils import logging

from edkm.saved import offload
from edkm.saved.replay import KINDS
from profiler.machine import collect_hardware, collect_versions, utc_now

MIB = 1 << 20


@dataclass
class Row:
    """One offloader on one case; bytes and seconds, None where this machine cannot tell."""

    model: str
    dtype: str
    attention: str
    offloader: str
    saves: int
    floor_bytes: int
    host_bytes: int
    d2h_bytes: int
    h2d_bytes: int
    stays_bytes: int
    device_peak_bytes: int | None
    step_s: float
    cpu_s: float
    overlap: float | None
    grad_equal: bool
    rebuilt: dict[str, dict[str, int]]


def trl_offloader() -> Any:
    """TRL's context, or an error that says why not."""
    from trl.models.activation_offloading import OffloadActivations

    if DEVICE == "cpu":
        raise RuntimeError("TRL's OffloadActivations needs an accelerator")
    context: Any = OffloadActivations()
    context.ledger = None
    return context


OFFLOADERS: dict[str, Callable[[nn.Module], Any]] = {
    "none": lambda model: contextlib.nullcontext(),
    "save_on_cpu": lambda model: SaveOnCpu(),
    "trl": lambda model: trl_offloader(),
    "edkm": lambda model: offload(model, rebuild=("view",), min_bytes=0),
    "edkm+rebuild": lambda model: offload(model, rebuild=KINDS, min_bytes=0),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    rows = rows_in(options.out) if options.resume else []
    skipped: dict[str, str] = {}
    folder = options.data / "models" / "stories3M"
    sizes = Sizes(options.layers, options.batch, options.length)
    for case in cases(options.hidden, sizes, folder if folder.is_dir() else None, options.kinds):
        if any((r.model, r.dtype, r.attention) == case.key for r in rows):
            continue
        rows += rows_of(case, options.runs, skipped)
        result = result_of(options, rows, skipped)
        if options.out:  # after every case: what was measured is kept whatever comes
            Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
        if not options.json:
            print_rows(rows[-len(OFFLOADERS) + len(skipped) :])
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, reason in skipped.items():
            print(f"\nskipped {name}: {reason}")


def rows_in(path: str | None) -> list[Row]:
    """What an earlier run left in the file."""
    if path is None or not Path(path).is_file():
        return []
    return [Row(**row) for row in json.loads(Path(path).read_text())["rows"]]


def result_of(
    options: argparse.Namespace, rows: list[Row], skipped: dict[str, str]
) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "benchmark": "offload",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "device": DEVICE,
        "threads": options.threads,
        "runs": options.runs,
        "tokens": [options.batch, options.length],
        "load_average": os.getloadavg(),  # beside other work the times rank nothing
        "skipped": skipped,
        "rows": [asdict(row) for row in rows],
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="*", default=[1024, 2048])
    parser.add_argument("--layers", type=int, default=4, help="LLaMA blocks of each model")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    default = os.environ.get("EDKM_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="has models/stories3M")
    parser.add_argument("--kinds", nargs="*", default=KINDS_OF_CASE, choices=KINDS_OF_CASE)
    parser.add_argument("--resume", action="store_true", help="measure what --out has not yet")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="write the JSON here too")
    return parser.parse_args()


def rows_of(case: Case, runs: int, skipped: dict[str, str]) -> list[Row]:
    saves, floor, stays = saved_storages(case, contextlib.nullcontext())
    contexts: dict[str, Any] = {}
    for name, make in OFFLOADERS.items():
        try:
            contexts[name] = make(case.model)
        except (ImportError, AttributeError, RuntimeError) as error:
            contexts.pop(name, None)
            skipped[name] = f"{type(error).__name__}: {error}"
    steps: dict[str, list[Step]] = {name: [] for name in contexts}
    for _ in range(runs):
        for name in contexts:
            fresh = OFFLOADERS[name](case.model)
            steps[name].append(step(case, fresh))
    reference = steps["none"][0].gradients
    rows = []
    for name, done in steps.items():
        if name != "none":
            stays = saved_storages(case, OFFLOADERS[name](case.model))[2]
        last = done[-1]
        rows.append(
            Row(
                case.name,
                case.dtype,
                case.attention,
                name,
                saves,
                floor,
                last.host_bytes,
                last.d2h_bytes,
                last.h2d_bytes,
                stays,
                last.device_peak,
                statistics.median(s.seconds for s in done),
                statistics.median(s.cpu_seconds for s in done),
                None,
                all(torch.equal(a, b) for a, b in zip(last.gradients, reference, strict=True)),
                last.rebuilt,
            )
        )
    return rows


def print_rows(rows: list[Row]) -> None:
    print(flush=True)
    print(f"{rows[0].model} {rows[0].dtype} {rows[0].attention}: {rows[0].saves} saves, ", end="")
    print(f"floor {rows[0].floor_bytes / MIB:.1f} MiB")
    heads = ("host", "d2h", "h2d", "stays", "of floor", "step s", "cpu s")
    print(f"{'':14}" + "".join(f"{head:>9}" for head in heads) + "  equal")
    for row in rows:
        moved = (row.host_bytes, row.d2h_bytes, row.h2d_bytes, row.stays_bytes)
        figures = (*(f"{b / MIB:9.1f}" for b in moved), f"{row.host_bytes / row.floor_bytes:9.4f}")
        times = f"{row.step_s:9.3f}{row.cpu_s:9.3f}"
        print(f"{row.offloader:14}" + "".join(figures) + f"{times}  {row.grad_equal}")


if __name__ == "__main__":
    main()
