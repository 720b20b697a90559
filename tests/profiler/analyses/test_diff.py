"""Two runs compared by hand: every change has its cause, and the changes add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from profiler import Tracer, open_run
from profiler.analyses.diff import diff
from profiler.events import Step
from tests.profiler.analyses.runs import float32, run_of


def layers(count: int, size: int, **fields: object) -> list:
    return [
        float32(i, i, [size], module=f"layers.{i}.mlp", op="Mul", **fields) for i in range(count)
    ]


def test_equal_layers_are_one_change_with_its_cause(tmp_path: Path) -> None:
    head = [float32(90, 90, [3], module="head", op="Mm")]
    a = run_of(tmp_path / "a", layers(60, 10), head, [Step(step=0, peak_bytes=100)])
    b = run_of(tmp_path / "b", layers(60, 40), head, [Step(step=0, peak_bytes=160)])
    found = diff(a, b)
    (change,) = found.changes
    assert change.modules == ["layers.0-59.mlp (x60)"] and change.count == 60
    assert change.cause == "shape [10] -> [40]"
    assert (change.device_bytes, change.host_bytes) == (60 * 120, 0)
    assert found.b.device_bytes - found.a.device_bytes == 60 * 120
    assert found.equal_modules == 1 and found.b.peak_bytes == 160
    assert json.loads(json.dumps(found.to_json()))["changes"][0]["count"] == 60


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ({}, {"dtype": "x"}, "dtype float32 -> x"),
        ({}, {"action": "copied", "host_bytes": 40}, "action kept -> copied"),
        ({}, {"phase": "recompute"}, "only in a"),
    ],
)
def test_causes(tmp_path: Path, before: dict, after: dict, cause: str) -> None:
    def save(**fields: object) -> list:
        row = float32(1, 1, [10], op="Mul")
        for name, value in fields.items():
            setattr(row, name, value)
        return [row]

    a, b = run_of(tmp_path / "a", save(**before)), run_of(tmp_path / "b", save(**after))
    found = diff(a, b)
    assert cause in [change.cause for change in found.changes]
    device = sum(change.device_bytes for change in found.changes)
    assert device == found.b.device_bytes - found.a.device_bytes
    host = sum(change.host_bytes for change in found.changes)
    assert host == found.b.host_bytes - found.a.host_bytes


def test_more_saves_and_sharing_are_causes_of_their_own(tmp_path: Path) -> None:
    twice = [float32(1, 1, [10], op="A"), float32(2, 1, [10], op="A")]
    apart = [float32(1, 1, [10], op="A"), float32(2, 2, [10], op="A")]
    one, two, three = (
        run_of(tmp_path / str(i), rows) for i, rows in enumerate((twice[:1], twice, apart))
    )
    assert diff(one, two).changes[0].cause == "saved once in a, 2 times in b"
    assert diff(two, three).changes[0].cause == "1 storages of its own in a, 2 in b"
    assert diff(three, three).changes == []


def test_checkpointing_is_told_from_a_plain_run(tmp_path: Path) -> None:
    from torch.utils.checkpoint import checkpoint

    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(4))
    runs = []
    for name in ("plain", "checkpointed"):
        x = torch.ones(4, 8, requires_grad=True)
        with Tracer(tmp_path / name, model=blocks) as tracer, tracer.step():
            for block in blocks:
                again = name == "checkpointed"
                x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            x.sum().backward()
        runs.append(open_run(tmp_path / name))
    found = diff(*runs)
    gone = [c for c in found.changes if c.cause == "action kept -> rebuilt"]
    assert gone and all(c.modules in (["0-3.0 (x4)"], ["0-3.1 (x4)"]) for c in gone)
    assert sum(c.device_bytes for c in gone) < 0
    again = [c for c in found.changes if c.phase == "recompute"]
    assert again and all(c.cause == "only in b" for c in again)
