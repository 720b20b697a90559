"""What is compared: the settings of a table, and the rows that follow from them.

Contract: a frozen value; ``plan`` lists a job for each row, in the order they run: the dense model
tuned as long (one row a seed, whatever the bits), then bits in the order given, each over all
seeds. A method is named ``[tuned+]METHOD[@EMBEDDING_BITS]``: ``tuned+gptq`` is GPTQ of the dense
model tuned as long, ``gptq@4`` is GPTQ with embeddings of 4 bits.
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
from edkm.export.folders import check_folder
from edkm.method_names import split
from edkm.train.config import PRESETS

DENSE_BITS = 8  # of a job that needs none: the dense row has no bits
COSTLY = ("edkm-chosen",)  # three runs a row: only where it is asked for
DEFAULT = (*(name for name in METHODS if name not in COSTLY), "tuned+gptq", "tuned+awq")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One table."""

    model: Path
    text_train: Path
    text_heldout: Path
    out: Path
    methods: tuple[str, ...] = DEFAULT
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
    tasks: Path | None = None  # of the first seed's rows

    def __post_init__(self) -> None:
        for name in ("methods", "bits", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; name at least one, separated by commas")
        for name in ("model", "text_train", "text_heldout", "tasks"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise ValueError(f"{name} is {path}, which does not exist; give a path that does")
        check_folder("out", self.out)
        check_choice("preset", self.preset, tuple(PRESETS))
        plan(self)  # refuses what a job refuses

    @property
    def shared(self) -> Path:
        """Folder of work that rows share."""
        return self.out / "work" / "shared"

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
    if "dense" in settings.methods:
        jobs += [_job(settings, "dense", DENSE_BITS, seed) for seed in settings.seeds]
    for bits in settings.bits:
        for seed in settings.seeds:
            for name in settings.methods:
                seedless = name in SEEDLESS and seed != settings.seeds[0]
                if name != "dense" and not seedless:
                    jobs.append(_job(settings, name, bits, seed))
    return jobs


def parse(name: str) -> tuple[str, str, int | None]:
    """(start, method, embedding bits or None) of a name. ``ValueError`` says what is wrong."""
    tuned, method, bits = split(name)
    check_choice("methods", method, tuple(METHODS))
    if "@" in name and not bits.isdecimal():
        raise ValueError(f"methods has {name!r}; after @ give the embeddings' bits, as gptq@4")
    return "tuned" if tuned else "given", method, int(bits) if bits else None


def _job(settings: Settings, name: str, bits: int, seed: int) -> Job:
    start, method, embedding_bits = parse(name)
    shared = {
        name: getattr(settings, name)
        for name in (
            "model", "text_train", "text_heldout", "group_size", "calibration", "steps", "batch",
            "sequence", "learning_rate", "dense_rate", "preset", "shared",
        )
    }  # fmt: skip
    return Job(
        name=name,
        method=method,
        start=start,
        bits=bits,
        seed=seed,
        embedding_bits=embedding_bits or settings.embedding_bits,
        out=settings.out
        / "work"
        / (f"{name}-{seed}" if name == "dense" else f"{name}-{bits}-{seed}"),
        tasks=settings.tasks if seed == settings.seeds[0] else None,
        **shared,
    )
