"""Groups of gloo processes for tests, forked from a server that has torch and the package loaded.

Contract: `in_processes(work, count, folder, *arguments)` runs `work(*arguments)` in `count`
processes that form the default group, and returns what each found, in rank order. What one raises
fails the test. A group starts in a fraction of the seconds that importing torch in each takes.
Boundary: `work` is a function of a module; what it finds is plain data, sent as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_LOADED = ["torch.distributed.fsdp", "torch.distributed.checkpoint", "edkm.saved", "edkm"]


def in_processes(
    work: Callable[..., Any], count: int, folder: Path, *arguments: Any
) -> list[dict[str, Any]]:
    """What `work` returned on each rank; `folder` is empty and the group's own."""
    multiprocessing.set_forkserver_preload(_LOADED)
    mp.start_processes(
        _process, (work, count, str(folder), arguments), nprocs=count, start_method="forkserver"
    )
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


def _process(
    rank: int, work: Callable[..., Any], count: int, folder: str, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count)
    found = work(*arguments)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
