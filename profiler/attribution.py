"""Where did it happen: which module was running?

Contract: `ModuleTracker.current` is the innermost module whose forward is running on this thread,
"" for a root module, `events.OUTSIDE` for none.
Boundary: no tensor is looked at and no module is kept alive; what is attributed is the caller's
business. Lines of code are profiler.stacks'.
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

_sequence_number = torch._C._autograd._get_sequence_nr


class ModuleCall:
    """One call of a module that is running: its name, and what is the same for all it saves."""

    __slots__ = ("above", "first", "forward", "frame", "name", "total")

    def __init__(self, name: str, first: int, frame: FrameType | None) -> None:
        self.name = name
        self.first = first  # autograd sequence number at its start
        self.frame = frame  # it lies between the frames of the call and those above
        self.forward: FrameType | None = None  # StackTable's: the call's own code, once found
        self.above = -1  # StackTable's number of the frames above `forward`
        self.total: events.Total | None = None  # SummaryRecorder's: where its saves are added up


class ModuleTracker:
    """Follows module calls while started, by standing in for `nn.Module.__call__`.

    PyTorch's global forward hooks would do the same at ten times the cost, which the level
    summary cannot afford.

    Args:
        found: told of a model the first time it is called and nobody registered it.
        frames: note where on the stack each call is, for a StackTable.
        spans: note which autograd nodes each call made, for `take_spans`.
    """

    def __init__(
        self,
        found: Callable[[nn.Module], None] | None = None,
        *,
        frames: bool = True,
        spans: bool = True,
    ) -> None:
        self._found = found
        self._frames = frames
        self._with_spans = spans
        # By id, and checked by identity: a WeakKeyDictionary takes a microsecond to ask.
        self._names: dict[int, tuple[weakref.ref[nn.Module], str]] = {}
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
            self._names[id(module)] = weakref.ref(module), full
            rows.append(_describe(full, module))
        return rows

    def name_of(self, module: nn.Module) -> str:
        """Qualified name of a registered module, else its class name."""
        known = self._names.get(id(module))
        return known[1] if known is not None and known[0]() is module else type(module).__name__

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
        return running[-1].name if running else events.OUTSIDE

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
        if not running and self._found is not None and not self._knows(module):
            self._found(module)
        known = self._names.get(id(module))
        name = known[1] if known and known[0]() is module else type(module).__name__
        frame = sys._getframe(1) if self._frames else None
        first = _sequence_number() if self._with_spans else 0
        running.append(ModuleCall(name, first, frame))
        return running

    def leave(self, running: list[ModuleCall]) -> None:
        call = running.pop()
        if not self._with_spans:
            return
        last = _sequence_number()
        if last > call.first:
            self._spans.append((call.first, last, call.name))

    def _knows(self, module: nn.Module) -> bool:
        known = self._names.get(id(module))
        return known is not None and known[0]() is module

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


BOUNDARY = next(  # the code of the frames that stand in for calls
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
