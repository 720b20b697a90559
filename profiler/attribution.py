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
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from profiler import events

_DEPTH = 24  # frames of a stack that are kept
_sequence_number = torch._C._autograd._get_sequence_nr


class ModuleTracker:
    """Follows module calls by PyTorch's global forward hooks, while entered.

    Args:
        found: told of a model the first time it is called and nobody registered it.
    """

    def __init__(self, found: Callable[[nn.Module], None] | None = None) -> None:
        self._found = found
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._roots: list[str] = []
        self._local = threading.local()
        self._spans: list[tuple[int, int, str]] = []
        self._handles: list[Any] = []

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
        return self._names.get(module) or ("" if module in self._names else type(module).__name__)

    def start(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def current(self) -> str:
        running = getattr(self._local, "running", None)
        return running[-1][0] if running else ""

    def take_spans(self) -> list[tuple[int, int, str]]:
        """(first, last + 1) autograd sequence number of every module call so far; forgets them."""
        spans, self._spans = self._spans, []
        return spans

    def _prefix(self, model: nn.Module) -> str:
        if next(model.parameters(), None) is None:
            return type(model).__name__
        name = type(model).__name__ if self._roots else ""
        same = sum(root == name for root in self._roots)
        self._roots.append(name)
        return f"{name}{same + 1}" if same else name

    def _enter(self, module: nn.Module, args: Any) -> None:
        running = getattr(self._local, "running", None)
        if running is None:
            running = self._local.running = []
        if not running and self._found is not None and module not in self._names:
            self._found(module)
        running.append((self.name_of(module), _sequence_number()))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        running = getattr(self._local, "running", None)
        if running:  # empty where the module was entered before the tracker was
            name, first = running.pop()
            last = _sequence_number()
            if last > first:
                self._spans.append((first, last, name))


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
    """Interned call stacks: an event carries a number, the stack is described once."""

    def __init__(self, describe: Callable[[events.Stack], None]) -> None:
        self._describe = describe
        self._ids: dict[tuple[CodeType | int, ...], int] = {}

    def here(self, skip: int = 1) -> int:
        """The number of the calling stack, `skip` frames above the caller left out."""
        frame: FrameType | None = sys._getframe(skip + 1)
        places: list[CodeType | int] = []
        for _ in range(_DEPTH):
            if frame is None:
                break
            places += (frame.f_code, frame.f_lasti)
            frame = frame.f_back
        key = tuple(places)
        number = self._ids.get(key)
        if number is None:
            number = self._ids[key] = len(self._ids)
            self._describe(events.Stack(stack_id=number, frames=_frames(key)))
        return number


def _frames(key: tuple[CodeType | int, ...]) -> list[str]:
    pairs = zip(key[::2], key[1::2], strict=True)
    return [
        f"{code.co_filename}:{_line(code, lasti)}:{code.co_qualname}"
        for code, lasti in pairs
        if isinstance(code, CodeType) and isinstance(lasti, int)
    ]


def _line(code: CodeType, lasti: int) -> int:
    """The line of an instruction; only looked up when a stack is seen for the first time."""
    for start, stop, line in code.co_lines():
        if start <= lasti < stop and line is not None:
            return line
    return code.co_firstlineno
