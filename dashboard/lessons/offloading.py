"""What a layer computes and what it sends: the two figures that decide whether a copy is hidden.

Contract: bytes are those that `edkm.saved.offload` copied to the host and back when the layers
ran just now; operations are counted by torch while they ran.
Boundary: no seconds; those are `bus`'s, and simulated. No page and no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dashboard.lessons.bus import Layer
from edkm.saved import offload

LAYERS = 6


@dataclass(frozen=True)
class Offloaded:
    """One forward and backward with offloading."""

    layers: list[Layer]
    sent_bytes: int
    fetched_bytes: int
    exact: bool  # whether the gradients are bit-equal to those without offloading


def run_offloaded(layers: nn.Sequential, x: Tensor) -> tuple[list[int], list[int], int, int]:
    sent: list[int] = []
    flops: list[int] = []
    with FlopCounterMode(display=False) as counter, offload(layers) as policy:
        for layer in layers:
            x = layer(x)
            sent.append(policy.ledger.d2h_bytes - sum(sent))
            flops.append(counter.get_total_flops() - sum(flops))
        x.sum().backward()
    return sent, flops, counter.get_total_flops() - sum(flops), policy.ledger.h2d_bytes


def measure(rows: int, width: int) -> Offloaded:
    """Runs six layers (Linear and GELU, `width` wide, float32) on `rows` rows."""
    layers, x = _model(width), _input(rows, width)
    sent, flops, backward, fetched = run_offloaded(layers, x)
    made = [
        Layer(saved_bytes=count, forward_flops=work, backward_flops=backward // LAYERS)
        for count, work in zip(sent, flops, strict=True)
    ]
    wanted_layers, wanted_x = _model(width), _input(rows, width)
    wanted_layers(wanted_x).sum().backward()
    pairs = zip([x, *layers.parameters()], [wanted_x, *wanted_layers.parameters()], strict=True)
    exact = all(torch.equal(_grad(one), _grad(other)) for one, other in pairs)
    return Offloaded(made, sum(sent), fetched, exact)


def _model(width: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(LAYERS)]
    return nn.Sequential(*blocks)


def _input(rows: int, width: int) -> Tensor:
    # a gradient is wanted of it, so that the first layer does what all others do
    return torch.rand(rows, width, generator=torch.Generator().manual_seed(0)).requires_grad_()


def _grad(tensor: Tensor) -> Tensor:
    return cast(Tensor, tensor.grad)
