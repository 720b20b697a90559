"""What is compared: the settings of a table, and the rows that follow from them.

Contract: a frozen value; ``plan`` lists a job for each row, in the order they run: the dense model
tuned as long (one row, whatever the bits), then methods by bits; the first seed of everything
before the second.
Boundary: no model and no file is looked at here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edkm.baselines.job import METHODS, SEEDLESS, Job
from edkm.dkm.checks import check_choice

DENSE_BITS = 8  # of a job that needs none: the dense row has no bits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One table."""

    model: Path
    text_train: Path
    text_heldout: Path
    out: Path
    methods: tuple[str, ...] = tuple(METHODS)
    bits: tuple[int, ...] = (2, 3, 4)
    seeds: tuple[int, ...] = (0,)
    group_size: int = 64
    embedding_bits: int = 8
    calibration: int = 32
    steps: int = 150
    batch: int = 8
    sequence: int = 256
    learning_rate: float = 3e-4
    dense_rate: float = 1e-4
    preset: str = "quality"
    tasks: Path | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice("methods", method, tuple(METHODS))
        for name in ("methods", "bits", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; name at least one, separated by commas")
        for name in ("model", "text_train", "text_heldout", "tasks"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise ValueError(f"{name} is {path}, which does not exist; give a path that does")

    def as_json(self) -> dict[str, Any]:
        """Plain values, paths as text."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    def fingerprint(self) -> str:
        """Equal for tables whose rows may stand side by side."""
        free = ("methods", "bits", "seeds", "out")
        kept = {k: v for k, v in self.as_json().items() if k not in free}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def plan(settings: Settings) -> list[Job]:
    """The rows to run."""
    jobs = []
    for seed in settings.seeds:
        if "dense" in settings.methods:
            jobs.append(_job(settings, "dense", DENSE_BITS, seed))
        for bits in settings.bits:
            for method in settings.methods:
                if method != "dense" and not (method in SEEDLESS and seed != settings.seeds[0]):
                    jobs.append(_job(settings, method, bits, seed))
    return jobs


def _job(settings: Settings, method: str, bits: int, seed: int) -> Job:
    shared = {
        name: getattr(settings, name)
        for name in (
            "model", "text_train", "text_heldout", "group_size", "embedding_bits", "calibration",
            "steps", "batch", "sequence", "learning_rate", "dense_rate", "preset", "tasks",
        )
    }  # fmt: skip
    name = "dense" if method == "dense" else f"{method}-{bits}"
    out = settings.out / "work" / f"{name}-{seed}"
    return Job(method=method, bits=bits, seed=seed, out=out, **shared)
