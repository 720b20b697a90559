"""Rows of every type for tests of the run folder, and how to read them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from profiler.events import (
    Edge,
    MemorySample,
    Module,
    Node,
    Record,
    Save,
    Stack,
    Step,
    Storage,
    Total,
    Transfer,
)
from profiler.query import open_run
from profiler.schema import to_records

HOSTILE = "<script>alert(1)</script>'; DROP TABLE saves; -- ../../etc \U0001f525 \x00 \"%s{}"


def one_of_each() -> list[Record]:
    """Every record type with no field left at its default."""
    return [
        Save(
            save_id=2**40, step=1, phase="backward", rank=0, time_ns=10**18, node_seq=7,
            op=HOSTILE, module="a.b", stack_id=3, shape=[2, 3, 0], dtype="torch.bfloat16",
            stride=[3, 1, 1], storage_offset=5, device="cuda:0", storage_id=9,
            logical_bytes=12, storage_bytes=24, is_param=True, version=2, action="alias",
            alias_of=1, hops=4, finder="graph", host_bytes=6, peer_bytes=42,
            unpack_ns=10**18 + 1, unpacked_count=2,
        ),
        Storage(storage_id=9, step=1, bytes=24, device="cpu", category="grad", born_ns=1,
                died_ns=2, module=HOSTILE, last_keeper="MmBackward0"),
        Transfer(step=1, direction="h2d", bytes=5, start_ns=1, end_ns=2, stream=3, pinned=True,
                 simulated=True, peer=True, save_id=4, module="m"),
        Node(step=1, seq=-4, name="MmBackward0", module="m", stack_id=2, shape=[4], saved_bytes=1,
             saved_unique_bytes=1, forward_ns=5, backward_ns=6),
        Edge(step=1, source=1, target=2, output=1),
        MemorySample(step=1, time_ns=1, phase="forward", device="cuda:0", allocated_bytes=1,
                     reserved_bytes=2, rss_bytes=3, param_bytes=4, grad_bytes=5,
                     optimizer_bytes=6, saved_bytes=7, temp_bytes=8, host_bytes=9, peer_bytes=10),
        Module(module="m", kind="Linear", parent="", param_bytes=8, trainable_bytes=4),
        Stack(stack_id=3, frames=[HOSTILE, "b.py:2:g"]),
        Total(step=1, module="m", saves=1, logical_bytes=2, param_bytes=3, first_bytes=4,
              aliased_bytes=5, unique_bytes=6, param_storage_bytes=7, storages=8, host_copies=9,
              host_bytes=10, peer_bytes=11),
        Step(step=1, name="M+U", start_ns=1, forward_end_ns=2, end_ns=3, peak_bytes=4,
             rss_peak_bytes=5),
    ]  # fmt: skip


def read(path: Path, table: str) -> list[Any]:
    return to_records(open_run(path).table(table), table)


def files(path: Path, table: str) -> list[str]:
    return sorted(p.name for p in (path / table).iterdir())
