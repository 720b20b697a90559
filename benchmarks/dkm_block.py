"""A training step of a LLaMA-shaped block, clustered against plain: time and peak memory.

Contract: both models are stepped in turn in one process; times and peaks are medians.
Boundary: ``python benchmarks/dkm.py --block`` runs it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from dkm_measure import both_clocks, peak
from torch import Tensor, nn

from edkm.dkm import DKMConfig
from edkm.nn import cluster_linears


class Block(nn.Module):
    """Hidden 2048, 16 heads, SwiGLU of 5632, pre-norms."""

    o: nn.Linear

    def __init__(self, hidden: int = 2048, inner: int = 5632) -> None:
        super().__init__()
        for name in "qkvo":
            setattr(self, name, nn.Linear(hidden, hidden, bias=False))
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)
        self.first, self.second = nn.RMSNorm(hidden), nn.RMSNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        q, k, v = (getattr(self, name)(h).unflatten(-1, (16, -1)).transpose(1, 2) for name in "qkv")
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        h = self.second(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


def trainer(clustered: bool) -> tuple[Callable[[], None], int]:
    """(one training step on 512 tokens, bytes held between steps); forward, backward, SGD."""
    torch.manual_seed(0)
    model, x = Block().bfloat16(), torch.randn(1, 512, 2048).bfloat16()
    if clustered:
        cluster_linears(model, DKMConfig(bits=3, iterations=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        model(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.nbytes for p in model.parameters()) + x.nbytes


def block(rounds: int) -> dict[str, Any]:
    """The two rows and their ratios: ``time_ratio``, ``cpu_ratio``, ``peak_ratio``."""
    steps = {name: trainer(name == "clustered") for name in ("plain", "clustered")}
    for step, _ in steps.values():
        step()  # centroids, compiled loops
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    peaks: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(max(5, rounds)):
        for name, (step, _) in steps.items():
            grown = peak(step, 0)
            peaks[name] += [] if grown is None else [grown]
            clocks[name].append(both_clocks(step))
    result: dict[str, Any] = {}
    for name, (_, held) in steps.items():
        wall, cpu = map(statistics.median, zip(*clocks[name], strict=True))
        top = held + statistics.median(peaks[name]) if peaks[name] else None
        result[name] = {"step_s": wall, "cpu_s": cpu, "held_bytes": held, "peak_bytes": top}
    # the ratio within a round, so that a change of the machine's speed between rounds cancels
    pairs = list(zip(clocks["clustered"], clocks["plain"], strict=True))
    for at, name in enumerate(("time_ratio", "cpu_ratio")):
        result[name] = statistics.median(ours[at] / plain[at] for ours, plain in pairs)
    if peaks["plain"]:
        result["peak_ratio"] = result["clustered"]["peak_bytes"] / result["plain"]["peak_bytes"]
    return result
