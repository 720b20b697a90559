"""Where PyTorch is listened to: saved-tensor hooks, the start of backward, optimizer steps.

Contract: while entered, every saved-tensor pair that is pushed on any thread is wrapped, because
only the innermost pair runs and a tracer that merely pushed its own would be blind inside other
people's hooks. Pairs belong to a thread: one that the program starts begins with ours. Everything
is undone on leaving, in whatever way.
Boundary: patches and forwards; it records nothing.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

Pack = Callable[[Tensor], Any]
Unpack = Callable[[Any], Tensor]
KeptTensor = tuple[
    Tensor, int
]  # one that stays where it is, and its version, which hooks leave to us


class Listener(Protocol):
    """Who wants to know."""

    def wrap(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        """Give the pair to use instead of another one."""

    def backward_starts(self, roots: Sequence[Any], differentiable: bool) -> None:
        """The engine is about to run from these autograd nodes; as a graph itself, or not."""

    def backward_ends(self) -> None: ...

    def optimizer_starts(self, optimizer: torch.optim.Optimizer) -> None: ...

    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None: ...


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` what autograd does, until left."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_interrupts_kept())
        pair = listener.wrap(*_innermost_pair())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(*pair))
        stack.enter_context(_set_aside_for_transforms(pair))
        stack.enter_context(_pushed_on_new_threads(pair))
        stack.enter_context(_patched_push(listener))
        stack.enter_context(_patched_engine(listener))
        for handle in _optimizer_hooks(listener):
            stack.callback(handle.remove)
        yield


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise Ctrl-C again where it struck inside a finalizer, which would have swallowed it.

    A traced program frees thousands of observed tensors a second, so that is not rare.
    """
    old = sys.unraisablehook

    def hook(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            # Not at once: that would strike inside this very hook.
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            old(what)

    with _replaced(sys, "unraisablehook", hook):
        yield


def _innermost_pair() -> tuple[Pack, Unpack]:
    """The pair in force, or one that keeps tensors as autograd itself would."""
    pair = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return pair if pair is not None else (keep, give_back)


def keep(tensor: Tensor) -> KeptTensor:
    """Pack as autograd itself does. Detached: an output with its own history would be a cycle."""
    return tensor.detach(), tensor._version


def give_back(kept: KeptTensor) -> Tensor:
    """Unpack what `keep` packed; RuntimeError, as autograd's, where it was changed since."""
    tensor, version = kept
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an "
            f"inplace operation: [{tensor.dtype} {list(tensor.shape)}] is at version "
            f"{tensor._version}; expected version {version} instead"
        )
    return tensor


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _patched_push(listener: Listener) -> contextlib.AbstractContextManager[None]:
    owner = torch._C._autograd
    push = owner._push_saved_tensors_default_hooks

    def traced_push(pack: Pack, unpack: Unpack) -> None:
        push(*listener.wrap(pack, unpack))

    return _replaced(owner, "_push_saved_tensors_default_hooks", traced_push)


@contextlib.contextmanager
def _pushed_on_new_threads(pair: tuple[Pack, Unpack]) -> Iterator[None]:
    """Push the pair on each thread that the program starts from now on, for as long as it runs."""
    owner, start = torch._C._autograd, threading.Thread.start
    push, pop = owner._push_saved_tensors_default_hooks, owner._pop_saved_tensors_default_hooks

    def traced_start(thread: threading.Thread) -> None:
        run, own = thread.run, vars(thread).get("run")

        def put_back() -> None:  # also lest the thread be a reference cycle
            if own is None:
                vars(thread).pop("run", None)
            else:
                vars(thread)["run"] = own

        def traced_run() -> None:
            put_back()
            push(*pair)
            try:
                run()
            finally:
                pop()  # what is left behind would die without the interpreter's lock

        vars(thread)["run"] = traced_run
        try:
            start(thread)
        except BaseException:
            put_back()
            raise

    with _replaced(threading.Thread, "start", traced_start):
        yield


@contextlib.contextmanager
def _set_aside_for_transforms(pair: tuple[Pack, Unpack]) -> Iterator[None]:
    """Take our own pair away while PyTorch refuses hooks (`torch.func`), and put it back after.

    A program's own pair stays and is refused, as without us.
    """
    owner = torch._C._autograd
    disable, enable = owner._saved_tensors_hooks_disable, owner._saved_tensors_hooks_enable
    push, pop = owner._push_saved_tensors_default_hooks, owner._pop_saved_tensors_default_hooks
    here = threading.local()

    def traced_disable(*args: Any) -> None:
        innermost = owner._top_saved_tensors_default_hooks(True)
        if innermost is None or innermost[0] is not pair[0]:
            return disable(*args)
        pop()
        try:
            disable(*args)
        except BaseException:
            push(*pair)
            raise
        here.aside = True

    def traced_enable() -> None:
        enable()
        if getattr(here, "aside", False):
            here.aside = False
            push(*pair)

    with (
        _replaced(owner, "_saved_tensors_hooks_disable", traced_disable),
        _replaced(owner, "_saved_tensors_hooks_enable", traced_enable),
    ):
        yield


@contextlib.contextmanager
def _patched_engine(listener: Listener) -> Iterator[None]:
    run = torch.autograd.graph._engine_run_backward

    def traced_run(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        create_graph = args[2] if len(args) > 2 else kwargs.get("create_graph", False)
        listener.backward_starts([_node_of(output) for output in outputs], bool(create_graph))
        try:
            return run(outputs, *args, **kwargs)
        finally:
            listener.backward_ends()

    with (
        _replaced(torch.autograd.graph, "_engine_run_backward", traced_run),
        _replaced(torch.autograd, "_engine_run_backward", traced_run),
    ):
        yield


def _node_of(output: Any) -> Any:
    return output.grad_fn if isinstance(output, Tensor) else getattr(output, "node", None)


def _optimizer_hooks(listener: Listener) -> list[Any]:
    return [
        register_optimizer_step_pre_hook(lambda opt, *_: listener.optimizer_starts(opt)),
        register_optimizer_step_post_hook(lambda opt, *_: listener.optimizer_ends(opt)),
    ]
