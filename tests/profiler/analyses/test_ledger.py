"""The ledger of a step worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiler.analyses import ledger
from profiler.analyses.ledger import Entry
from profiler.events import MemorySample, Module, Step, Total
from tests.profiler.analyses.runs import float32, run_of

# Step 1, module a: X (storage 1, 2 x 3, 24 B) twice, a parameter W (storage 2, 3 x 3, 36 B).
# Module b: X again, transposed; a 4-element view (16 B) of Y (storage 3, 10 elements, 40 B),
# copied to the host; and a view of W that is not itself marked as a parameter.
SAVES = [
    float32(1, 1, [2, 3], step=1, module="a"),
    float32(2, 1, [2, 3], step=1, module="a"),
    float32(3, 2, [3, 3], step=1, module="a", is_param=True),
    float32(4, 1, [3, 2], stride=[1, 3], step=1, module="b", action="alias"),
    float32(5, 3, [4], step=1, module="b", storage_elements=10, action="copied", host_bytes=16),
    float32(6, 2, [3], step=1, module="b", storage_elements=9),
]


def test_every_byte_is_in_one_column(tmp_path: Path) -> None:
    earlier = [float32(0, 1, [2, 3], step=0, module="z")]  # another step counts for itself
    kinds = [Module(module="a", kind="Linear"), Step(step=1, name="M")]
    found = ledger(run_of(tmp_path / "run", earlier, SAVES, kinds))
    assert (found.step, found.name) == (1, "M")
    assert [entry.module for entry in found.modules] == ["b", "a"]
    b, a = found.modules
    assert (a.kind, a.saves, a.storages) == ("Linear", 3, 1)
    assert (a.logical_bytes, a.param_bytes, a.first_bytes, a.aliased_bytes) == (84, 36, 24, 24)
    assert (a.unique_bytes, a.param_storage_bytes, a.host_bytes) == (24, 36, 0)
    assert (b.logical_bytes, b.param_bytes, b.first_bytes, b.aliased_bytes) == (52, 12, 16, 24)
    assert (b.unique_bytes, b.storages, b.host_copies, b.host_bytes) == (40, 1, 1, 16)
    total = found.total
    assert total.saves == 6 and total.unique_bytes == 64 and total.param_storage_bytes == 36
    assert total.logical_bytes == total.param_bytes + total.first_bytes + total.aliased_bytes
    assert found.actions == {"kept": 4, "alias": 1, "copied": 1}
    assert json.loads(json.dumps(found.to_json()))["total"]["logical_bytes"] == 136


def test_storages_of_different_ranks_are_different(tmp_path: Path) -> None:
    saves = [float32(1, 1, [2], rank=0), float32(1, 1, [2], rank=1)]
    assert ledger(run_of(tmp_path / "run", saves)).total.unique_bytes == 16


def test_the_fullest_moment_is_reconciled(tmp_path: Path) -> None:
    memory = [
        MemorySample(step=1, time_ns=1, allocated_bytes=10, param_bytes=10),
        MemorySample(
            step=1, time_ns=2, phase="backward", allocated_bytes=142, param_bytes=61,
            optimizer_bytes=4, grad_bytes=2, saved_bytes=70, temp_bytes=1, host_bytes=9,
            rss_bytes=500,
        ),
        MemorySample(step=0, time_ns=0, allocated_bytes=999),
    ]  # fmt: skip
    (balance,) = ledger(run_of(tmp_path / "run", SAVES, memory), 1).balances
    assert (balance.time_ns, balance.phase, balance.allocated_bytes) == (2, "backward", 142)
    assert balance.unexplained_bytes == 142 - 61 - 4 - 2 - 70 - 1
    assert (balance.host_bytes, balance.rss_bytes) == (9, 500)


def test_compiled_code_is_a_limit_of_its_step(tmp_path: Path) -> None:
    saves = [
        float32(1, 1, [2], step=0, op="MmBackward0"),
        float32(2, 2, [3], step=1, op="CompiledFunctionBackward"),
    ]
    run = run_of(tmp_path / "run", saves)
    (limit,) = ledger(run, 1).limits
    assert limit.startswith("1 saves, 12 bytes, are of compiled code")
    assert ledger(run, 0).limits == []


def test_an_unknown_step_names_the_known(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [float32(i, i, [1], step=i) for i in (0, 1, 5)])
    with pytest.raises(ValueError, match="step: got 3, but only these have saves: 0, 1, 5"):
        ledger(run, 3)


def test_an_empty_run_has_an_empty_ledger(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert ledger(run).modules == [] and ledger(run).total.saves == 0
    with pytest.raises(ValueError, match="this run has no saves"):
        ledger(run, 0)


def test_a_summary_gives_the_same_ledger_as_the_saves(tmp_path: Path) -> None:
    kinds = [Module(module="a", kind="Linear"), Step(step=1, name="M")]
    full = ledger(run_of(tmp_path / "full", SAVES, kinds))
    names = [name for name in Entry.__annotations__ if name != "kind"]
    totals = [
        Total(step=1, **{name: getattr(entry, name) for name in names}) for entry in full.modules
    ]
    summary = ledger(run_of(tmp_path / "summary", totals, kinds))
    assert (summary.step, summary.name) == (1, "M")
    assert summary.modules == full.modules and summary.total == full.total
