"""CUDA's streams in miniature: what was queued runs in any order that the waits allow.

Contract: work queued on a stream runs later, streams run in a random order, and memory that was
given up is overwritten as soon as the allocator could give it out again: when the stream it came
from, and those it was recorded on, have done what they had queued by then.
Boundary: models what `edkm.saved.transport` uses of `torch.cuda`, and only its ordering. Needs a
torch built without CUDA, whose stream and event types are empty shells.
"""

from __future__ import annotations

import contextlib
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda:0")
Task = Callable[[], bool]  # False: not yet


class Event(torch.cuda.Event):
    """Done once the stream that recorded it got there."""

    def __new__(cls, *settings: Any) -> Event:
        return object.__new__(cls)

    def __init__(self) -> None:
        self.done = False

    def record(self, stream: Stream) -> None:
        self.done = False
        stream.queue.append(self._reached)

    def synchronize(self) -> None:
        GPU.run_until(lambda: self.done)

    def _reached(self) -> bool:
        self.done = True
        return True


class Stream(torch.cuda.Stream):
    """A queue of work."""

    def __new__(cls, *settings: Any) -> Stream:
        return object.__new__(cls)

    def __init__(self, device: torch.device = DEVICE) -> None:
        self.queue: deque[Task] = deque()
        GPU.streams.append(self)

    def wait_event(self, event: Event) -> None:
        self.queue.append(lambda: event.done)

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    def work(self, task: Callable[[], Any]) -> None:
        def once() -> bool:
            task()
            return True

        self.queue.append(once)


class Machine:
    """The streams, and which one is current."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.streams: list[Stream] = []
        self.current: Stream

    def advance(self, most: int) -> None:
        """Run at most so many tasks, of streams taken at random."""
        for _ in range(most):
            busy = [s for s in self.streams if s.queue]
            self.random.shuffle(busy)
            ran = next((s for s in busy if s.queue[0]()), None)
            if ran is None:
                return
            ran.queue.popleft()

    def finish(self) -> None:
        """Run all that is queued."""
        self.run_until(lambda: not any(stream.queue for stream in self.streams))

    def run_until(self, done: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if done():
                return
            self.advance(1)
        raise AssertionError("the streams wait for each other")


GPU = Machine()


class OnDevice(Tensor):
    """Bytes of the device: copies to and from them are queued, not done."""

    is_cuda = True  # type: ignore[assignment]
    device = DEVICE  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_:
            target, source = (t.as_subclass(Tensor) for t in args[:2])
            GPU.current.work(lambda: target.copy_(source))
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.users.append(stream)


def on_device(count: int) -> OnDevice:
    """Memory of the current stream; scribbled over once it may be given out again."""
    memory = torch.zeros(count, dtype=torch.uint8)
    tensor = memory.as_subclass(OnDevice)
    tensor.users = [GPU.current]
    GPU.current.work(lambda: memory.fill_(254))  # its last user before, still at it
    weakref.finalize(tensor, _given_up, memory, tensor.users)
    return tensor


def _given_up(memory: Tensor, users: list[Stream]) -> None:
    if not any(users[0] is stream for stream in GPU.streams):
        return  # left over from an earlier machine
    reached = [Event() for _ in users]
    for event, stream in zip(reached, users, strict=True):
        event.record(stream)
    reuse = Stream()
    for event in reached:
        reuse.wait_event(event)
    reuse.work(lambda: memory.fill_(255))


@contextlib.contextmanager
def _on(stream: Stream) -> Iterator[None]:
    before, GPU.current = GPU.current, stream
    yield
    GPU.current = before


def simulate(monkeypatch: pytest.MonkeyPatch, seed: int) -> Machine:
    """Put the miniature in the place of `torch.cuda`."""
    GPU.__init__(seed)  # type: ignore[misc]
    GPU.current = Stream()
    real = torch.empty

    def empty(*shape: Any, pin_memory: bool = False, **settings: Any) -> Tensor:
        return real(*shape, **settings)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", _on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: GPU.current)
    return GPU
