"""A `transformers.Trainer` traced by one line: `callbacks=[TracingCallback("runs/a")]`.

Contract: a recorded step is a step of the trainer, with all its gradient-accumulation passes; the
step's number is the trainer's own, also where training is resumed. Training is bit-equal with and
without it. A Trainer does not tell its callbacks that it failed: enter the callback
(`with TracingCallback(...) as callback:`) to have the run closed and the tracer gone even then;
otherwise it stays until the program ends.
Boundary: enters and leaves `profiler.Tracer`; transformers is imported with this module, not with
the package.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from profiler.tracer import Level, Tracer


class TracingCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Records what autograd saves in a Trainer's steps.

    Args:
        path: the run folder to make.
        level: "full", "summary" or "values", see `Tracer`.
        steps: the first step to record and the one to stop before; None stands for no bound.
        force: replace an existing run.

    Raises:
        ValueError: when training begins: an unknown level, or a folder that cannot be used.

    Example:
        >>> from profiler.callback import TracingCallback
        >>> callback = TracingCallback("runs/finetune", steps=(10, 12))
        >>> # Trainer(..., callbacks=[callback]).train()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        level: Level = "full",
        steps: tuple[int | None, int | None] = (None, None),
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        self._level = level
        self._steps = steps
        self._force = force
        self._open = contextlib.ExitStack()
        self._tracer: Tracer | None = None
        self._step = contextlib.ExitStack()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the tracer; training that was resumed keeps its step numbers."""
        self._close()
        info = {"command": "profiler.callback", "trainer_max_steps": state.max_steps}
        self._tracer = Tracer(
            self.path,
            model=kwargs.get("model"),
            level=self._level,
            steps=self._steps,
            info=info,
            force=self._force,
            rank=args.process_index,
            world_size=args.world_size,
            first_step=state.global_step,
        )
        self._open.enter_context(self._tracer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._tracer is not None:
            self._step.enter_context(self._tracer.step())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step.close()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._tracer = None
        self._step.close()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
