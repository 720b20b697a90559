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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from edkm.train.errors import PeerLostError

# How gloo says that the other end of a connection is gone, or has been silent for too long.
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "Timed out")


def on_first(work: Callable[[], Any]) -> Any:
    """Do ``work`` on rank 0; every process returns its result, or raises its error.

    The result is pickled. Of errors, those that a user can cause are shared.
    """
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = work()
        except (ValueError, OSError) as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def copy_from_first(model: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of rank 0's ``model`` (not yet sharded)."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)


def gather_on_first(model: torch.nn.Module) -> dict[str, Any]:
    """The whole ``state_dict`` on rank 0, one weight at a time; {} elsewhere. Collective."""
    first, whole = dist.get_rank() == 0, {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if first:
            whole[name] = full.cpu()
    return whole


@contextlib.contextmanager
def losses_told(checkpoints: Path) -> Iterator[None]:
    """Inside, a lost process, and SIGTERM, raise ``PeerLostError``; SIGTERM is ignored after it."""

    def told(number: int, frame: object) -> None:
        raise _lost(checkpoints, "torchrun ended this process (SIGTERM)")

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a sharded run sets a signal handler: start it on the main thread")
    after = signal.signal(signal.SIGTERM, told)
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistBackendError) or any(w in str(error) for w in _LOST)
        if lost or isinstance(error, PeerLostError):
            after = signal.SIG_IGN  # torchrun's own word of it must not cut this one short
        if lost:
            raise _lost(checkpoints, "another process was lost") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, after)


def _lost(checkpoints: Path, what: str) -> PeerLostError:
    return PeerLostError(
        f"{what} before the run was done; torchrun's report names the process that failed first. "
        f"Whole checkpoints in {checkpoints} are intact: go on with --resume"
    )
