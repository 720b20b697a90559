"""How bytes cross between device and host: at once, or on side streams with pinned memory.

Contract: whatever order things are freed in, a copy reads and writes only memory that is still
its own: device memory is recorded on the stream that uses it, the host waits before it reads.
Boundary: moves bytes; when to fetch ahead is decided in `host`. The CUDA half has not run on a
device yet; what must be measured there is in docs/saved-tensors.md.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Bytes on the host, and the event after which they are there (None: they are)."""

    data: Tensor
    ready: torch.cuda.Event | None = None

    def wait(self) -> Tensor:
        """The bytes, once the host may read them."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.data


class Transport:
    """Copies at once, into pageable memory."""

    prefetch = 0

    def download(self, source: Tensor) -> Downloaded:
        """A host copy of a 1-D uint8 tensor."""
        data = torch.empty(source.shape, dtype=torch.uint8, device="cpu")
        data.copy_(source)
        return Downloaded(data)

    def upload(self, source: Downloaded, target: Tensor) -> None:
        """Copy into `target` on the device; whatever follows on its current stream sees it."""
        target.copy_(source.wait())

    def start_upload(self, source: Downloaded, target: Tensor) -> torch.cuda.Event | None:
        """As `upload`, but the current stream must first wait for the event, where one is given."""
        self.upload(source, target)
        return None

    def mark(self, tensor: Tensor) -> torch.cuda.Event | None:
        """When the current stream will have made `tensor` (None: it is there)."""
        return None

    def use(self, tensor: Tensor, made: torch.cuda.Event | None) -> None:
        """The current stream is about to use `tensor`, which perhaps another stream made."""


class StreamTransport(Transport):
    """CUDA: pinned memory and one stream each way, so that copies overlap with the computation.

    Args:
        prefetch: buffers to fetch ahead of backward.
        pinned_cap: most bytes of pinned memory in use at a time, counted as PyTorch takes them, in
            powers of two; further buffers are pageable.
    """

    def __init__(self, prefetch: int, pinned_cap: int | None) -> None:
        self.prefetch = prefetch
        self._cap = pinned_cap
        self._pinned = 0
        self._lock = threading.RLock()
        self._streams: dict[tuple[torch.device, str], torch.cuda.Stream] = {}

    def download(self, source: Tensor) -> Downloaded:
        if not source.is_cuda:
            return super().download(source)
        data = self._host_memory(source.numel())
        stream = self._stream(source.device, "d2h")
        stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            data.copy_(source, non_blocking=data.is_pinned())
            ready = torch.cuda.Event()
            ready.record(stream)
        # The allocator gives this memory to no one before the copy has read it.
        source.record_stream(stream)
        return Downloaded(data, ready)

    def upload(self, source: Downloaded, target: Tensor) -> None:
        ready = self.start_upload(source, target)
        if ready is not None:
            torch.cuda.current_stream(target.device).wait_event(ready)

    def start_upload(self, source: Downloaded, target: Tensor) -> torch.cuda.Event | None:
        if not target.is_cuda:
            super().upload(source, target)
            return None
        stream = self._stream(target.device, "h2d")
        # The memory of `target` may be in use until now by what ran on the current stream.
        stream.wait_stream(torch.cuda.current_stream(target.device))
        if source.ready is not None:
            stream.wait_event(source.ready)
        with torch.cuda.stream(stream):
            target.copy_(source.data, non_blocking=source.data.is_pinned())
            done = torch.cuda.Event()
            done.record(stream)
        target.record_stream(stream)  # it may be dropped before anyone waited for the copy
        return done

    def mark(self, tensor: Tensor) -> torch.cuda.Event | None:
        if not tensor.is_cuda:
            return None
        made = torch.cuda.Event()
        made.record(torch.cuda.current_stream(tensor.device))
        return made

    def use(self, tensor: Tensor, made: torch.cuda.Event | None) -> None:
        if made is not None:
            current = torch.cuda.current_stream(tensor.device)
            current.wait_event(made)
            tensor.record_stream(current)

    def _stream(self, device: torch.device, direction: str) -> torch.cuda.Stream:
        with self._lock:
            key = (device, direction)
            if key not in self._streams:
                self._streams[key] = torch.cuda.Stream(device)
            return self._streams[key]

    def _host_memory(self, count: int) -> Tensor:
        """Pinned while the cap allows. PyTorch caches pinned blocks, so this stalls only once."""
        taken = 1 << (count - 1).bit_length()  # its blocks are powers of two
        with self._lock:
            pinned = self._cap is None or self._pinned + taken <= self._cap
            if pinned:
                self._pinned += taken
        data = torch.empty(count, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        if pinned:
            weakref.finalize(data.untyped_storage(), self._unpin, taken).atexit = False
        return data

    def _unpin(self, count: int) -> None:
        with self._lock:
            self._pinned -= count


def transport_for(pin_memory: bool, prefetch: int, pinned_cap: int | None) -> Transport:
    """The transport of this machine.

    Raises:
        ValueError: a negative prefetch or cap.
    """
    for name, value in (("prefetch", prefetch), ("pinned_cap", pinned_cap)):
        if value is not None and value < 0:
            raise ValueError(f"{name}={value}: must not be negative; 0 turns it off")
    if not (pin_memory and torch.cuda.is_available()):
        return Transport()
    return StreamTransport(prefetch, pinned_cap)
