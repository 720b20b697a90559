"""One training step under one offloader, measured: bytes held, moved and left, and seconds.

Contract: `floor` and `stays` are counted by plain hooks that know nothing of any offloader; bytes
moved and held come from the offloader's own ledger where it has one.
Boundary: measures; which models and offloaders there are is the caller's business.
"""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from offload_cases import DEVICE, Case
from torch import Tensor

from edkm.saved import Ledger


class SaveOnCpu(torch.autograd.graph.saved_tensors_hooks):
    """The copies of torch's save_on_cpu(pin_memory=True), counted, on any device."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        super().__init__(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> tuple[torch.device, Tensor]:
        packed = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        packed.copy_(tensor)
        self.ledger.hold(packed.nbytes, peer=False)
        self.ledger.d2h_bytes += packed.nbytes
        weakref.finalize(packed, self.ledger.hold, -packed.nbytes, peer=False).atexit = False
        return tensor.device, packed

    def unpack(self, packed: tuple[torch.device, Tensor]) -> Tensor:
        device, tensor = packed
        self.ledger.h2d_bytes += tensor.nbytes
        return tensor.to(device, non_blocking=True) if device.type != "cpu" else tensor.clone()


@dataclass
class Step:
    """What one step came to; bytes and seconds."""

    seconds: float
    cpu_seconds: float
    host_bytes: int
    d2h_bytes: int
    h2d_bytes: int
    device_peak: int | None
    gradients: list[Tensor]
    rebuilt: dict[str, dict[str, int]]


def step(case: Case, context: Any) -> Step:
    """One forward and backward under `context`."""
    case.model.zero_grad()
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start, cpu_start = time.perf_counter(), time.process_time()
    with context:
        loss = case.loss()
    ledger = getattr(context, "ledger", None) or Ledger()
    held = ledger.host_bytes
    loss.backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Step(
        seconds,
        cpu_seconds,
        held,
        ledger.d2h_bytes,
        ledger.h2d_bytes,
        torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        [p.grad.clone() for p in case.model.parameters() if p.grad is not None],
        {kind: asdict(told) for kind, told in ledger.rebuilt.items()},
    )


def saved_storages(case: Case, context: Any) -> tuple[int, int, int]:
    """Saves, bytes of their distinct storages, and bytes of those alive after forward."""
    tensors = (*case.model.parameters(), *case.model.buffers())
    resident = weakref.WeakSet(t.untyped_storage() for t in tensors)
    seen: dict[int, tuple[weakref.ref[Any], int]] = {}
    saves = 0

    def note(tensor: Tensor) -> None:
        nonlocal saves
        saves += 1
        storage = tensor.untyped_storage()
        if storage not in resident:
            known = any(ref() is storage for ref, _ in seen.values())
            if not known:
                seen[len(seen)] = (weakref.ref(storage), storage.nbytes())

    with watched(context, note):
        loss = case.loss()
    alive = sum(count for ref, count in seen.values() if ref() is not None)
    del loss
    return saves, sum(count for _, count in seen.values()), alive


@contextlib.contextmanager
def watched(context: Any, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Enter `context`, with every tensor that it packs noted first."""
    if isinstance(context, contextlib.nullcontext):
        context = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    attribute = "pack_hook" if hasattr(context, "pack_hook") else "pack"
    pack = getattr(context, attribute)

    def noting(tensor: Tensor) -> Any:
        note(tensor)
        return pack(tensor)

    setattr(context, attribute, noting)
    with context:
        yield
