"""Which module's forward is running, and whether its name was chosen.

Contract: `ModuleNames` adds two hooks to every submodule while it is entered and takes them away
again; the running modules are known per thread.
Boundary: names only; what is done with them is the caller's business.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

ROOT = "(root)"


class ModuleNames:
    """The stack of running modules, outermost first, by the names of `root.named_modules()`."""

    def __init__(self, root: nn.Module | None) -> None:
        self._root = root
        self._local = threading.local()

    @property
    def running(self) -> list[str]:
        """Names of the modules whose forward is running on this thread."""
        stack: list[str] = self._local.__dict__.setdefault("stack", [])
        return stack

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the modules' forwards for the time of this context."""
        named = [] if self._root is None else self._root.named_modules()
        depth = len(self.running)
        handles = [h for name, module in named for h in self._hooked(module, name or ROOT)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            del self.running[depth:]  # an exception may have skipped a hook

    def _hooked(self, module: nn.Module, name: str) -> tuple[Any, Any]:
        thread = threading.get_ident()  # hooks of a module run on whatever thread runs it

        def enter(module: nn.Module, inputs: Any) -> None:
            if threading.get_ident() == thread:
                self.running.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread and self.running[-1:] == [name]:
                self.running.pop()

        return (
            module.register_forward_pre_hook(enter, prepend=True),
            module.register_forward_hook(leave, always_call=True),
        )


class ModuleFilter:
    """Takes what is saved inside an included module and not inside an excluded one.

    Args:
        root: the model whose names the patterns are about.
        include: shell patterns of module names ("layers.*"); None includes everything.
        exclude: shell patterns of module names.

    Raises:
        ValueError: patterns without a model, or a pattern that no module's name matches.
    """

    def __init__(
        self, root: nn.Module | None, include: Sequence[str] | None, exclude: Sequence[str]
    ) -> None:
        self._include, self._exclude = include, tuple(exclude)
        for pattern in (*(include or ()), *self._exclude):
            _check_pattern(pattern, root)

    def takes(self, running: Sequence[str]) -> bool:
        """Whether something saved while `running` is taken."""
        included = self._include is None or _any_matches(running, self._include)
        return included and not _any_matches(running, self._exclude)


def _any_matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_pattern(pattern: str, root: nn.Module | None) -> None:
    if root is None:
        raise ValueError(
            f"pattern {pattern!r}: names of modules are known only with a model; "
            "give it, as in offload(model, exclude=['lm_head'])"
        )
    names = [name or ROOT for name, _ in root.named_modules()]
    if not _any_matches(names, [pattern]):
        raise ValueError(
            f"pattern {pattern!r}: no module of {type(root).__name__} has such a name; the first "
            f"of its {len(names)} are {', '.join(names[:8])}"
        )
