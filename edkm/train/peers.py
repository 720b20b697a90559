"""What one process does for all, and what becomes of the others when one is lost.

Contract: the result or the error of ``on_first`` is every process's, so that none waits for one
that has failed. ``losses_told`` turns a broken collective, or the end that torchrun sends to the
rest, into one ``PeerLostError``.
Boundary: knows processes, not training.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from edkm.train.errors import PeerLostError
from edkm.train.roll_call import silent_ranks

Found = TypeVar("Found")

# How gloo says that the other end of a connection is gone, or has been silent for too long.
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "Timed out")


def on_first(work: Callable[[], Any], group: dist.ProcessGroup | None = None) -> Any:
    """Do ``work`` on rank 0; every process returns its result, or raises its error.

    The result is pickled. Of errors, those that a user can cause are shared. The others wait as
    long as ``group`` lets them.
    """
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = work()
        except (ValueError, OSError) as error:
            found[1] = error
    dist.broadcast_object_list(found, group=group)
    if found[1] is not None:
        raise found[1]
    return found[0]


def together(work: Callable[[], Found], group: dist.ProcessGroup | None = None) -> Found:
    """Do ``work`` on every process; each returns its own result, or all raise the first error."""
    error: Exception | None = None
    try:
        found = work()
    except (ValueError, OSError) as raised:
        error = raised
    errors: list[Exception | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error, group=group)
    for one in errors:
        if one is not None:
            raise one
    return found


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process what rank 0 has in ``tensors``, in place."""
    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)


def gather_on_first(model: torch.nn.Module, whole: torch.nn.Module | None) -> None:
    """Write the ``state_dict`` of ``model`` into rank 0's ``whole``, one weight at a time.

    Collective; ``whole`` is None on the others.
    """
    into = whole.state_dict() if whole is not None else {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if whole is not None:
            into[name].copy_(full)


@contextlib.contextmanager
def losses_told(checkpoints: Path) -> Iterator[None]:
    """Inside, a lost process, and SIGTERM, raise ``PeerLostError``; SIGTERM is ignored after it."""

    def told(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _lost(checkpoints, "torchrun ended this process by SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a sharded run sets a signal handler: start it on the main thread")
    after = signal.signal(signal.SIGTERM, told)
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistBackendError) or any(w in str(error) for w in _LOST)
        if lost or isinstance(error, PeerLostError):
            after = signal.SIG_IGN  # torchrun's own word of it must not cut this one short
            signal.signal(signal.SIGTERM, after)
        if lost:
            late = "Timed out" in str(error)
            how = "waited for as long as --patience says" if late else "its connections are closed"
            raise _lost(checkpoints, how) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, after)


def _lost(checkpoints: Path, how: str) -> PeerLostError:
    """The error of a run that ended early, noticed by ``how``; asks who is missing."""
    missing = silent_ranks()
    if missing:
        ranks = ", ".join(map(str, missing))
        what = f"rank {ranks} was lost before the run was done: it does not answer ({how})"
    elif missing is None:
        what = f"another process was lost before the run was done ({how}); which, nobody can tell"
    else:
        what = f"the run was cut short, though all processes still answer ({how})"
    return PeerLostError(
        f"{what}. torchrun's report names the process that failed first. "
        f"Whole checkpoints in {checkpoints} are intact: go on with --resume"
    )
