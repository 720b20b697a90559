"""Which processes of a sharded run still answer, once one does not.

Contract: each process that can says so in torchrun's store and looks for the others; those that
have not are stuck or gone. Uses no process group, which is broken by then.
Boundary: asks; what it means is ``edkm.train.peers``'.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

GRACE = 5.0  # seconds in which the others are to answer; torchrun kills after 30


def silent_ranks(grace: float = GRACE) -> list[int] | None:
    """Ranks that did not answer within ``grace`` seconds; None if the store does not."""
    own, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    missing = [rank for rank in range(world) if rank != own]
    end = time.monotonic() + grace
    try:
        store = _store(grace)
        store.set(str(own), "here")
        while missing and time.monotonic() < end:
            missing = [rank for rank in missing if not store.check([str(rank)])]
            time.sleep(0.05 if missing else 0.0)
    except (RuntimeError, OSError):  # its process is stuck or gone: rank 0, without torchrun
        return None
    return missing


def _store(patience: float) -> Store:
    """torchrun's store, on a connection of its own; names are this start's alone."""
    whole = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=patience),
        wait_for_workers=False,
    )
    return PrefixStore(f"edkm.roll-call.{os.environ.get('TORCHELASTIC_RESTART_COUNT')}", whole)
