"""A disk that is full from some step on: the kernel itself refuses to let files grow."""

from __future__ import annotations

import resource
from typing import Any

from transformers import TrainerCallback

ROOM = 8192  # bytes of a file: less than the weights of the tests' model


class FullAfterThree(TrainerCallback):
    """After step 3 no file of this process (of rank ``rank``, if given) may pass ``ROOM``."""

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and self.rank in (None, args.process_index):
            limit(ROOM)


def limit(room: int) -> None:
    """Let no file of this process pass ``room`` bytes; ``resource.RLIM_INFINITY``: no limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
