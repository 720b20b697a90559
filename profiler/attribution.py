"""Where did it happen: which module was running, and which line of whose code?

Contract: `ModuleTracker.current` is the innermost module whose forward is running on this thread;
`StackTable.here` gives a small number for the current call stack and describes each stack once.
Boundary: no tensor is looked at and no module is kept alive; what is attributed is the caller's
business.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from profiler import events

_DEPTH = 24  # frames of a stack that are kept
_sequence_number = torch._C._autograd._get_sequence_nr


class ModuleCall:
    """One call of a module that is running: its name, and what is the same for all it saves."""

    __slots__ = ("first", "frame", "name", "outer")

    def __init__(self, name: str, first: int, frame: FrameType | None) -> None:
        self.name = name
        self.first = first  # autograd sequence number at its start
        self.frame = frame  # it lies between the frames of the call and those above
        self.outer: int | None = None  # StackTable's number of the frames above


class ModuleTracker:
    """Follows module calls while started, by standing in for `nn.Module.__call__`.

    PyTorch's global forward hooks would do the same at ten times the cost, which the level
    summary cannot afford.

    Args:
        found: told of a model the first time it is called and nobody registered it.
        frames: note where on the stack each call is, for a StackTable.
    """

    def __init__(
        self, found: Callable[[nn.Module], None] | None = None, *, frames: bool = True
    ) -> None:
        self._found = found
        self._frames = frames
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._roots: list[str] = []
        self._local = threading.local()
        self._spans: list[tuple[int, int, str]] = []
        self._original: Callable[..., Any] | None = None  # None: not started

    def register(self, model: nn.Module) -> list[events.Module]:
        """Learn the qualified names of a model's modules, and describe them.

        The first model with parameters keeps its names as they are; any further one has its class
        name before them.
        """
        prefix = self._prefix(model)
        rows = []
        for name, module in model.named_modules():
            full = ".".join(part for part in (prefix, name) if part)
            self._names[module] = full
            rows.append(_describe(full, module))
        return rows

    def name_of(self, module: nn.Module) -> str:
        """Qualified name of a registered module, else its class name."""
        name = self._names.get(module)
        return type(module).__name__ if name is None else name

    def start(self) -> None:
        self._original = nn.Module.__call__
        nn.Module.__call__ = _traced_call(self, nn.Module.__call__)  # type: ignore[method-assign]

    def stop(self) -> None:
        if self._original is not None:
            nn.Module.__call__ = self._original  # type: ignore[method-assign]
            self._original = None

    @property
    def started(self) -> bool:
        return self._original is not None

    @property
    def running(self) -> Sequence[ModuleCall]:
        """The calls that are running on this thread, outermost first."""
        try:
            running: list[ModuleCall] = self._local.running
        except AttributeError:
            running = self._local.running = []
        return running

    @property
    def current(self) -> str:
        running = self.running
        return running[-1].name if running else ""

    def take_spans(self) -> list[tuple[int, int, str]]:
        """(first, last + 1) autograd sequence number of every module call so far; forgets them."""
        spans, self._spans = self._spans, []
        return spans

    def enter(self, module: nn.Module) -> list[ModuleCall]:
        """Note that the caller calls a module; the calls that run now, to be given to `leave`."""
        try:
            running: list[ModuleCall] = self._local.running
        except AttributeError:
            running = self._local.running = []
        if not running and self._found is not None and module not in self._names:
            self._found(module)
        frame = sys._getframe(1) if self._frames else None
        running.append(ModuleCall(self.name_of(module), _sequence_number(), frame))
        return running

    def leave(self, running: list[ModuleCall]) -> None:
        call = running.pop()
        last = _sequence_number()
        if last > call.first:
            self._spans.append((call.first, last, call.name))

    def _prefix(self, model: nn.Module) -> str:
        if next(model.parameters(), None) is None:
            return type(model).__name__
        name = type(model).__name__ if self._roots else ""
        same = sum(root == name for root in self._roots)
        self._roots.append(name)
        return f"{name}{same + 1}" if same else name


def _traced_call(tracker: ModuleTracker, original: Callable[..., Any]) -> Callable[..., Any]:
    def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Not while compiling, nor where somebody kept this function after the tracker stopped.
        if torch.compiler.is_compiling() or not tracker.started:
            return original(module, *args, **kwargs)
        running = tracker.enter(module)
        try:
            return original(module, *args, **kwargs)
        finally:
            tracker.leave(running)

    return traced_call


_BOUNDARY = next(
    constant for constant in _traced_call.__code__.co_consts if isinstance(constant, CodeType)
)


def module_of_nodes(spans: list[tuple[int, int, str]]) -> dict[int, str]:
    """The innermost module of every sequence number that a span covers."""
    found: dict[int, str] = {}
    # Longest first, so that inner modules overwrite outer ones; of two equal spans the inner one
    # ended first, hence the reversal before a stable sort.
    for first, stop, name in sorted(spans[::-1], key=lambda s: s[1] - s[0], reverse=True):
        found.update(dict.fromkeys(range(first, stop), name))
    return found


def _describe(name: str, module: nn.Module) -> events.Module:
    own = list(module.parameters(recurse=False))
    return events.Module(
        module=name,
        kind=type(module).__name__,
        parent=(name.rpartition(".")[0] if name else None),
        param_bytes=sum(p.nbytes for p in own),
        trainable_bytes=sum(p.nbytes for p in own if p.requires_grad),
    )


class StackTable:
    """Interned call stacks: an event carries a number, the stack is described once.

    Walking 24 frames at every save would cost more than all the rest of it. So a stack is cut at
    the module calls that are running, and each piece is walked once per call.
    """

    def __init__(self, describe: Callable[[events.Stack], None]) -> None:
        self._describe = describe
        self._ids: dict[tuple[int, ...], int] = {}
        self._outer_ids: dict[tuple[int, ...], int] = {}
        self._outer: list[list[str]] = []
        self._seen: set[CodeType] = set()  # alive, so that none of their ids is used again

    def here(self, skip: int = 1, running: Sequence[ModuleCall] = ()) -> int:
        """The number of the calling stack, `skip` frames above the caller left out.

        running: the module calls that are running on this thread (ModuleTracker.running).
        """
        first = sys._getframe(skip + 1)
        places, outer = self._piece(first, running)
        number = self._ids.get(places)
        if number is None:
            frames = self._texts(first, len(places) // 2)
            frames += self._outer[outer] if outer is not None else []
            number = self._ids[places] = len(self._ids)
            self._describe(events.Stack(stack_id=number, frames=frames[:_DEPTH]))
        return number

    def _piece(
        self, frame: FrameType | None, running: Sequence[ModuleCall]
    ) -> tuple[tuple[int, ...], int | None]:
        """The frames up to the innermost running call, and the number of those above it."""
        stop = running[-1].frame if running else None
        key: list[int] = []
        for _ in range(_DEPTH):
            if frame is None or frame is stop:
                break
            key += (id(frame.f_code), frame.f_lasti)
            frame = frame.f_back
        outer = None
        if frame is stop and stop is not None:
            outer = running[-1].outer
            if outer is None:
                outer = running[-1].outer = self._outer_number(stop.f_back, running[:-1])
            key.append(outer)
        return tuple(key), outer

    def _outer_number(self, frame: FrameType | None, running: Sequence[ModuleCall]) -> int:
        places, outer = self._piece(frame, running)
        number = self._outer_ids.get(places)
        if number is None:
            texts = self._texts(frame, len(places) // 2)
            texts += self._outer[outer] if outer is not None else []
            number = self._outer_ids[places] = len(self._outer)
            self._outer.append(texts[:_DEPTH])
        return number

    def _texts(self, frame: FrameType | None, count: int) -> list[str]:
        texts = []
        for _ in range(count):
            assert frame is not None
            code = frame.f_code
            self._seen.add(code)
            if code is not _BOUNDARY:
                line = _line(code, frame.f_lasti)
                texts.append(f"{code.co_filename}:{line}:{code.co_qualname}")
            frame = frame.f_back
        return texts


def _line(code: CodeType, lasti: int) -> int:
    """The line of an instruction; only looked up when a stack is seen for the first time."""
    for start, stop, line in code.co_lines():
        if start <= lasti < stop and line is not None:
            return line
    return code.co_firstlineno
