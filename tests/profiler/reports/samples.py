"""Hand-built data in the shape of a recorded attn0 ablation: six rows, one graph, one timeline.

The bytes are the paper's accounting at 4096 x 4096; times and errors are invented.
"""

from __future__ import annotations

from typing import Any

from profiler.events import Edge, MemorySample, Node, Save, Step

MIB = 2**20
MAP, WEIGHT = 256 * MIB, 32 * MIB
SECOND = 10**9

_ROWS = {
    "none": (1600.0, 0.0, 4.4, 3.0),
    "M": (544.0, 0.0, 4.1, 3.3),
    "M+S": (68.0, 476.0, 4.2, 3.4),
    "M+U": (97.0, 0.0, 4.6, 3.9),
    "M+U+S": (12.1, 84.9, 4.7, 4.0),
    "fused": (32.0, 0.0, 0.05, 0.09),
}


def ablation_row(name: str) -> dict[str, Any]:
    """One row of `ablation()`."""
    host, peer, forward, backward = _ROWS[name]
    found = "M" in name
    return {
        "name": name, "marshal": found, "uniquify": "U" in name, "shard": "S" in name,
        "fused": name == "fused", "saved_tensors": 1 if name == "fused" else 8,
        "small_tensors": 9, "logical_bytes": 1600 * MIB, "host_bytes": int(host * MIB),
        "peer_bytes": int(peer * MIB), "device_bytes": 0,
        "d2h_bytes": int((host + peer) * MIB), "h2d_bytes": int(host * MIB),
        "peak_bytes": int((2600 + host) * MIB), "peak_rss_bytes": int((3000 + host) * MIB),
        "forward_s": forward, "backward_s": backward, "reduction": round(1600 / host, 1),
        "max_hops": 3 if found else None, "grad_rel_error": 1.7e-3,
        "hops": {"0": 2, "1": 2, "3": 1} if found else {},
        "finders": {"storage": 4, "graph": 1} if found else {},
    }  # fmt: skip


def ablation(names: tuple[str, ...] = tuple(_ROWS)) -> dict[str, Any]:
    """An ablation.json of the paper's setting on a CPU-only machine."""
    return {
        "schema": 1, "layer": "attn0", "matrix": "q_proj", "shape": [4096, 4096],
        "dtype": "bfloat16", "bits": 3, "clusters": 8, "iterations": 1, "learners": 8,
        "device": "cpu", "simulated_host": True, "simulated_learners": True,
        "matrices": [{"name": "q_proj", "shape": [4096, 4096]}], "tau": 2e-5, "seed": 0,
        "created": "2026-01-01T00:00:00+00:00", "phases": {"rows": 50.0},
        "rows": [ablation_row(name) for name in names],
    }  # fmt: skip


# Forward chain of one dense iteration: (name, inputs, saved: [(storage, bytes, shape)]).
_N, _K = 4096 * 4096, 8
_GRAPH: list[tuple[str, list[int], list[tuple[int, int, list[int]]]]] = [
    ("AccumulateGrad", [], []),
    ("ViewBackward0", [0], []),
    ("EuclideanDistBackward0", [1], [(1, WEIGHT, [_N, 1]), (2, 16, [_K, 1]), (3, MAP, [_N, _K])]),
    ("PowBackward0", [2], [(3, MAP, [_N, _K])]),
    ("NegBackward0", [3], []),
    ("DivBackward0", [4], []),
    ("SoftmaxBackward0", [5], [(4, MAP, [_N, _K])]),
    ("ClampBackward1", [6], [(4, MAP, [_N, _K])]),
    ("TransposeBackward0", [1], []),
    ("MmBackward0", [8, 7], [(1, WEIGHT, [1, _N]), (5, MAP, [_N, _K])]),
    ("TransposeBackward0", [9], []),
    ("SumBackward1", [7], []),
    ("UnsqueezeBackward0", [11], []),
    ("DivBackward0", [10, 12], [(6, 16, [_K, 1]), (7, 16, [_K, 1])]),
    ("MmBackward0", [7, 13], [(5, MAP, [_N, _K]), (8, 16, [_K, 1])]),
    ("ViewBackward0", [14], []),
]


def graph() -> tuple[list[Node], list[Edge], list[Save]]:
    """The autograd graph of one dense DKM iteration, with what each node saves."""
    nodes, edges, saves = [], [], []
    for seq, (name, inputs, saved) in enumerate(_GRAPH):
        nodes.append(Node(seq=seq, name=name, saved_bytes=sum(size for _, size, _ in saved)))
        edges += [Edge(source=source, target=seq) for source in inputs]
        for storage, size, shape in saved:
            saves.append(
                Save(
                    save_id=len(saves),
                    node_seq=seq,
                    op=name,
                    shape=shape,
                    dtype="bfloat16",
                    storage_id=storage,
                    logical_bytes=size,
                    storage_bytes=size,
                    action="copied",
                )
            )
    return nodes, edges, saves


def marshaled_saves() -> list[Save]:
    """The saves of the same graph under M: duplicates point at the copy that serves them."""
    _, _, saves = graph()
    first: dict[int, int] = {}
    for save in saves:
        source = 4 if save.storage_id == 5 else save.storage_id  # the clamp is replayed
        if source in first:
            save.action = "alias" if save.storage_id == source else "rebuilt"
            save.alias_of = first[source]
        first.setdefault(source, save.save_id)
    return saves


def timeline() -> tuple[list[MemorySample], list[Step]]:
    """Memory of the six rows one after the other, with 20 samples each."""
    samples, steps, now = [], [], 5 * SECOND
    for index, (name, (host, peer, forward, backward)) in enumerate(_ROWS.items()):
        middle, end = now + int(forward * SECOND), now + int((forward + backward) * SECOND)
        steps.append(Step(step=index, name=name, start_ns=now, forward_end_ns=middle, end_ns=end))
        for tick in range(21):
            share = tick / 10 if tick <= 10 else (20 - tick) / 10
            time = now + (end - now) * tick // 20
            samples.append(_sample(time, index, share, host, peer))
        now = end + SECOND // 5
    return samples, steps


def _sample(time: int, step: int, share: float, host: float, peer: float) -> MemorySample:
    return MemorySample(
        time_ns=time, step=step, phase="forward", saved_bytes=int(share * 500 * MIB),
        host_bytes=int(share * host * MIB), peer_bytes=int(share * peer * MIB),
        allocated_bytes=int((share * 500 + 64) * MIB),
        rss_bytes=int((900 + share * (host + peer + 600)) * MIB),
    )  # fmt: skip
