"""A training script run with fake tensors: a few steps of it, shapes only.

Contract: the script runs unchanged until it has taken its steps or asks for something that fake
tensors cannot give; then the reason is told, and it may be run for real instead.
Boundary: runs the script; recording is the tracer's, running for real is `profiler.program`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.optim.optimizer import register_optimizer_step_post_hook

from profiler.plan import made_fake
from profiler.program import Program
from profiler.tracer import Tracer

_BEYOND_FAKE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class _StepsTaken(BaseException):
    """Ends the script; no `except Exception` of its own may catch it."""


def plan_script(program: Program, path: Path, *, steps: int, force: bool) -> tuple[int, str | None]:
    """Run `program` on fake tensors for so many optimizer steps.

    Returns:
        Its exit code, and why it could not be planned to its end (None: it could).
    """
    info = {
        "command": "profiler.trace",
        "argv": [program.target, *program.arguments],
        "program": program.target,
        "fake": True,
    }
    problems: list[str] = []
    with FakeTensorMode(allow_non_fake_inputs=True), made_fake():
        with Tracer(path, info=info, force=force) as tracer:
            handle = register_optimizer_step_post_hook(_count_down(steps))
            try:
                code = program.run(lambda error: problems.append(_reason(error)))
            except _StepsTaken:
                code = 0
            finally:
                handle.remove()
            problem = problems[0] if problems and problems[0] else None
            tracer.writer.describe(exit_code=code, fake_problem=problem)
    return code, problem


def _count_down(steps: int) -> Callable[..., None]:
    left = [steps]

    def taken(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise _StepsTaken

    return taken


def _reason(error: Exception) -> str:
    """What fake tensors could not do, or nothing where the script itself is wrong."""
    if isinstance(error, _BEYOND_FAKE):
        return f"{type(error).__name__}: {error}"
    text = str(error)
    return text if "fake" in text.lower() or "meta" in text.lower() else ""
