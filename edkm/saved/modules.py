"""Which module's forward is running, and which tensors a module holds anyway.

Contract: `ModuleNames` adds two hooks to every submodule while it is entered and takes them away
again; the running modules are known per thread. `Residents` knows the storages of parameters and
buffers weakly, so that a view, transpose or detached alias of one is known as such.
Boundary: names and storages only; what is done with them is the caller's business.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, UntypedStorage, nn

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


class Residents:
    """Storages that are on the device whatever autograd saves: parameters and buffers."""

    def __init__(self, root: nn.Module | None) -> None:
        self._root = root
        self._storages: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def refresh(self) -> None:
        """Look again at what the model holds now (it may have been moved or resized)."""
        if self._root is None:
            return
        for tensor in (*self._root.parameters(), *self._root.buffers()):
            if type(tensor) in (Tensor, nn.Parameter):
                self._storages.add(tensor.untyped_storage())

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the storage of a parameter or buffer.

        A parameter that is not the model's (FSDP makes unsharded ones for a while) is known by
        its type the first time it is saved, and by its storage from then on.
        """
        storage = tensor.untyped_storage()
        base = tensor._base if tensor._base is not None else tensor
        if isinstance(base, nn.Parameter):
            self._storages.add(storage)
            return True
        return storage in self._storages


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
