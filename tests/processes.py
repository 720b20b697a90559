"""Groups of gloo processes for tests, forked from a server that has torch and the package loaded.

Contract: `in_processes(work, count, folder, *arguments)` runs `work(*arguments)` in `count`
processes that form the default group; `as_by_torchrun` leaves forming it to `work`. Both return
what each rank found, in rank order. What one raises fails the test. A group starts in a fraction
of the seconds that importing torch in each takes.
Boundary: `work` is a function of a module; what it finds is plain data, sent as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_LOADED = [
    *("torch.distributed.fsdp", "torch.distributed.checkpoint", "edkm.saved", "edkm"),
    *("transformers.models.llama.modeling_llama", "transformers.trainer", "edkm.train.sharded"),
]


def in_processes(
    work: Callable[..., Any], count: int, folder: Path, *arguments: Any
) -> list[dict[str, Any]]:
    """What `work` returned on each rank, in the default group; `folder` is their own."""
    return as_by_torchrun(_grouped, count, folder, work, arguments)


def as_by_torchrun(
    work: Callable[..., Any], count: int, folder: Path, *arguments: Any
) -> list[dict[str, Any]]:
    """As `in_processes`, in the environment that torchrun gives, and no group yet.

    What each found is in `folder` as `rankN.json`, also where another one failed.
    """
    multiprocessing.set_forkserver_preload(_LOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(
        _process, (work, count, port, folder, arguments), nprocs=count, start_method="forkserver"
    )
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


def _process(
    rank: int,
    work: Callable[..., Any],
    count: int,
    port: int,
    folder: Path,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
        **{"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    found = work(*arguments)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def _grouped(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    dist.init_process_group("gloo")
    found = work(*arguments)
    dist.barrier()
    dist.destroy_process_group()
    return found
