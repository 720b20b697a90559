"""A folder with a run of every kind: ablation, script, several ranks, summary, live, killed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import profiler
from dashboard.bundled import RECORDED
from profiler.events import MemorySample, Module, Step
from profiler.store import RunWriter
from tests.profiler.analyses.runs import float32

COPIED = {"finetune": "bundled-finetune", "attn0": "bundled-attn0", "ranks": "bundled-two-ranks",
          "offloaded": "bundled-offloaded"}  # fmt: skip
KINDS = (*COPIED, "summary", "live", "killed")


@contextlib.contextmanager
def every_kind(root: Path) -> Iterator[Path]:
    """The folder; the run `live` is being written until the end."""
    for name, bundled in COPIED.items():
        shutil.copytree(RECORDED / bundled, root / name)
    shutil.copytree(RECORDED / "bundled-finetune", root / "killed")
    info = json.loads((root / "killed" / "run.json").read_text())
    (root / "killed" / "run.json").write_text(json.dumps({**info, "closed": False}))
    part = next((root / "killed" / "edges").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    _summary(root / "summary")
    with _live(root / "live"):
        yield root


def _summary(path: Path) -> None:
    """Two steps at level summary, by the tracer itself."""
    model = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
    with profiler.Tracer(path, model=model, level="summary") as tracer:
        for _ in range(2):
            with tracer.step():
                model(torch.randn(64, 32)).square().mean().backward()


@contextlib.contextmanager
def _live(path: Path) -> Iterator[None]:
    """A run whose first step is on disk and whose writer goes on."""
    writer = RunWriter(path, {"command": "profiler.trace"}, flush_seconds=1e6)
    writer.add(Module(module="a", kind="Linear"))
    for number in range(4):
        writer.add(float32(number, number // 2, [256, 256], module="a", op="MmBackward0"))
    for number in range(8):
        sample = MemorySample(time_ns=number * 10**6, phase="forward", allocated_bytes=2**20)
        writer.add(sample)
    writer.add(Step(step=0, start_ns=0, forward_end_ns=4 * 10**6, end_ns=8 * 10**6))
    writer.flush()
    try:
        yield
    finally:
        writer.close()
