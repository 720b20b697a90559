"""A simulated device with a simulated bus: when would the copies of offloading have run?

Contract: bytes and operations in, seconds out, worked out and never measured. One computing
stream and one stream each way. A layer's bytes leave once it has computed; in backward the bytes
of a layer are asked for when the layer `ahead` places before it begins.
Boundary: latency, contention and memory limits are left out; a real bus is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.lessons.intervals import covered, length

COMPUTE, TO_HOST, BACK = "computing", "copying to the host", "copying back"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one layer does."""

    saved_bytes: int
    forward_flops: int
    backward_flops: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device and its bus."""

    flops_per_second: float
    bytes_per_second: float  # each way
    ahead: int  # layers of which bytes are fetched before they are needed

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "bytes_per_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, must be above 0")
        if self.ahead < 0:
            raise ValueError(f"ahead: got {self.ahead}, must not be negative; 0 fetches on demand")


@dataclass(frozen=True)
class Span:
    """One piece of work of one stream, in seconds from the start of the step."""

    lane: str
    layer: int
    start: float
    end: float


@dataclass(frozen=True)
class SimulatedStep:
    """One training step on the simulated machine."""

    spans: list[Span]
    seconds: float
    forward_seconds: float  # until backward begins
    compute_seconds: float  # what the step would take without offloading
    copy_seconds: float
    hidden_seconds: float  # copying while the device computed

    @property
    def hidden(self) -> float:
        """Which part of the copying was hidden, 0 to 1; 1 where there was none."""
        return self.hidden_seconds / self.copy_seconds if self.copy_seconds else 1.0


def simulate(layers: Sequence[Layer], machine: Machine) -> SimulatedStep:
    """One forward and one backward of the layers."""
    forward, copied, now = _forward(layers, machine)
    spans = forward + _backward(layers, machine, copied, now)
    computing = [(span.start, span.end) for span in spans if span.lane == COMPUTE]
    copying = [(span.start, span.end) for span in spans if span.lane != COMPUTE]
    return SimulatedStep(
        spans=spans,
        seconds=max((span.end for span in spans), default=0.0),
        forward_seconds=now,
        compute_seconds=sum(end - start for start, end in computing),
        copy_seconds=sum(length([each]) for each in copying),
        hidden_seconds=sum(covered([each], computing) for each in copying),
    )


def _forward(
    layers: Sequence[Layer], machine: Machine
) -> tuple[list[Span], dict[int, float], float]:
    """Spans of forward, when each layer's bytes are on the host, and the end of forward."""
    spans, copied, now, bus = [], dict[int, float](), 0.0, 0.0
    for number, layer in enumerate(layers):
        start, now = now, now + layer.forward_flops / machine.flops_per_second
        spans.append(Span(COMPUTE, number, start, now))
        begin = max(now, bus)
        bus = begin + layer.saved_bytes / machine.bytes_per_second
        copied[number] = bus
        spans.append(Span(TO_HOST, number, begin, bus))
    return spans, copied, now


def _backward(
    layers: Sequence[Layer], machine: Machine, copied: dict[int, float], now: float
) -> list[Span]:
    order = list(reversed(range(len(layers))))
    spans: list[Span] = []
    arrived: dict[int, float] = {}
    bus = 0.0
    for place, number in enumerate(order):
        for wanted in order[: place + machine.ahead + 1]:
            if wanted not in arrived:
                begin = max(now, bus, copied[wanted])
                bus = begin + layers[wanted].saved_bytes / machine.bytes_per_second
                arrived[wanted] = bus
                spans.append(Span(BACK, wanted, begin, bus))
        start = max(now, arrived[number])
        now = start + layers[number].backward_flops / machine.flops_per_second
        spans.append(Span(COMPUTE, number, start, now))
    return spans
