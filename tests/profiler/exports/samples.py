"""One small run that has everything an export can show, hostile names included."""

from __future__ import annotations

from pathlib import Path

from profiler.events import Edge, MemorySample, Module, Node, Record, Save, Stack, Step, Storage
from profiler.events import Transfer as Copy
from profiler.query import Run, open_run
from profiler.store import RunWriter

HOSTILE = '<script>alert("x")</script>\'; DROP TABLE saves; -- \\ \x01 \x00 ü🔥\nline'


def sample(path: Path) -> Run:
    """Two ranks, one step each; see the records below for the numbers."""
    for rank in (0, 1):
        with RunWriter(path, rank=rank, world_size=2) as writer:
            for record in records():
                writer.add(record)
    return open_run(path)


def records() -> list[Record]:
    return [
        Module(module="layers.0.up", kind="Linear"),
        Stack(stack_id=1, frames=["C:/a b.py:3:inner;x", "main.py:9:<module>"]),
        Save(save_id=1, time_ns=1_000, op="MmBackward0", module="layers.0.up", stack_id=1,
             shape=[4], stride=[1], dtype="float32", storage_id=1, logical_bytes=16,
             storage_bytes=16, node_seq=5, unpack_ns=9_000, unpacked_count=1, device="cpu"),
        Save(save_id=2, time_ns=1_400, op=HOSTILE, module=HOSTILE, shape=[8], stride=[1],
             dtype="float32", storage_id=2, logical_bytes=32, storage_bytes=32, node_seq=6,
             host_bytes=32, action="copied", device="cpu"),
        Storage(storage_id=1, bytes=16, device="cpu", category="saved", born_ns=900,
                died_ns=9_500),
        Storage(storage_id=2, bytes=32, device="cpu", category="temp", born_ns=1_300),
        Storage(storage_id=3, bytes=0, device="cpu", born_ns=1_300),
        Storage(storage_id=4, bytes=64, device="cuda:0", category="param", born_ns=10),
        Copy(direction="d2h", bytes=32, start_ns=1_500, end_ns=2_500, simulated=True, save_id=2),
        Copy(direction="d2h", bytes=32, start_ns=2_000, end_ns=3_000, simulated=True, peer=True),
        Copy(direction="d2h", bytes=32, start_ns=2_200, end_ns=3_100, simulated=True),
        Node(seq=5, name="MmBackward0", module="layers.0.up", shape=[4], stack_id=1,
             saved_bytes=16, saved_unique_bytes=16),
        Node(seq=6, name=HOSTILE, module="a/b.c", saved_bytes=32, saved_unique_bytes=32),
        Node(seq=-1, name="AccumulateGrad"),
        Edge(source=-1, target=5),
        Edge(source=5, target=6),
        Edge(source=5, target=6, output=1),
        MemorySample(time_ns=1_000, allocated_bytes=100, saved_bytes=48, rss_bytes=7),
        MemorySample(time_ns=5_000, allocated_bytes=60, saved_bytes=16),
        Step(step=0, name="M", start_ns=800, forward_end_ns=4_000, end_ns=10_000),
    ]  # fmt: skip
