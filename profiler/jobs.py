"""What `python -m profiler.trace` is asked to do, and which of its options belong to that.

Contract: exactly one job, or a ValueError; options of another job are named, not silently ignored.
Boundary: names only; the command line declares the options and their values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Job = Literal["layer", "program", "plan"]
_TITLES: dict[Job, str] = {
    "layer": "the ablation of a layer (--layer)",
    "program": "a program",
    "plan": "the plan of a model (--fake)",
}
_MODEL = frozenset({"model", "batch", "length", "dtype"})
_OPTIONS: dict[Job, frozenset[str]] = {
    "layer": _MODEL
    | {"layer", "matrix", "bits", "iterations", "learners", "configs", "text", "device", "tau"}
    | {"seed", "pictures", "json"},
    "program": frozenset({"program", "m", "level", "steps", "fake"}),
    "plan": _MODEL | {"fake", "lora", "optimizer", "json"},
}
_ALWAYS = frozenset({"out", "force"})


def choose_job(layer: str | None, words: list[str], fake: bool) -> Job:
    """One thing to trace: a layer, a program, or the plan of a model.

    Raises:
        ValueError: none of them, or two.
    """
    if layer is not None and (words or fake):
        other = "a program" if words else "--fake"
        raise ValueError(f"what to trace: give either --layer or {other}, not both")
    if layer is not None:
        return "layer"
    if not words and not fake:
        raise ValueError(
            "what to trace: give --layer attn0, or a program behind two dashes, or --fake with a "
            "--model; see --help"
        )
    return "program" if words else "plan"


def ignored(job: Job, given: Iterable[str]) -> str | None:
    """What to say of options that were given and do nothing for this job."""
    strange = [name for name in given if name not in _OPTIONS[job] | _ALWAYS]
    if not strange:
        return None
    names = ", ".join(f"--{name}" for name in strange)
    return f"warning: {names}: ignored, {_TITLES[job]} has no use for it"
