"""``TrainerCallback``s in a loop that is not the Trainer's.

Contract: the events of a training run, in the Trainer's order and with its own argument types:
beginning, beginning and end of each optimizer step, log entries (on rank 0), end.
Boundary: tells and forgets; a callback cannot steer the loop through ``TrainerControl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerControl, TrainerState

from edkm.train.config import TrainConfig
from edkm.train.prepare import Prepared
from edkm.train.trainer import arguments


class Listeners:
    """The callbacks of one run on one process, and the state they are shown."""

    def __init__(self, config: TrainConfig, ready: Prepared, callbacks: Sequence[Any]) -> None:
        self.args = arguments(config, ready.steps)
        self.first = self.args.process_index == 0
        self.callbacks = list(callbacks)
        if config.tensorboard and self.first:
            from transformers.integrations.integration_utils import TensorBoardCallback

            self.callbacks.append(TensorBoardCallback())  # type: ignore[no-untyped-call]
        self.state = TrainerState(
            max_steps=ready.steps,
            is_local_process_zero=self.first,
            is_world_process_zero=self.first,
        )
        self.control, self.model = TrainerControl(), ready.model

    def begin(self, step: int) -> None:
        """Training begins after optimizer step ``step``."""
        self.state.global_step = step
        self._tell("on_train_begin")

    def step_begins(self) -> None:
        """The next optimizer step begins."""
        self._tell("on_step_begin")

    def step_ends(self, step: int) -> None:
        """Optimizer step ``step`` (from 1) is done."""
        self.state.global_step = step
        self._tell("on_step_end")

    def logged(self, entry: dict[str, float]) -> None:
        """A log entry was made."""
        if self.first:
            self._tell("on_log", logs=dict(entry))

    def end(self) -> None:
        """Training is over."""
        self._tell("on_train_end")

    def _tell(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.args, self.state, self.control, model=self.model, **more)
