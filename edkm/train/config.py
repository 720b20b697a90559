"""The settings of a training run, checked when they are made, and presets of them.

Contract: a frozen value; every field with its unit; a bad value raises ``ValueError`` with the
field, the value, the rule and the remedy. ``fingerprint`` names what a resumed run must share.
Boundary: no model and no data is looked at here.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edkm.annealing import DEFAULT_END, DEFAULT_START
from edkm.dkm.checks import FORMS, check_choice, check_range

DTYPES = ("auto", "float32", "bfloat16")
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The best of the recipes tried on stories3M (docs/training.md, Quality): bits where they save
    # most in the bytes of the uniform ones, and a dense teacher tuned while that helps.
    "quality": {
        "allocate": 8,
        "compensate": 32,
        "distill": 0.9,
        "teacher_epochs": 3.0,
        "tau_start": 1.0,
        "tau_end": 0.05,
        "learning_rate": 1e-4,
    },
    # The paper's set-up (arXiv 2309.00964, section 3), as far as one process goes.
    "paper": {
        "bits": 3,
        "embedding_bits": 8,
        "epochs": 2.0,
        "learning_rate": 5e-5,
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "batch_size": 8,
        "accumulate": 8,
        "clip": 1.0,
        "sequence": 1024,
        "dtype": "bfloat16",
    },
}
# What may differ between a run and its resumption.
_FREE = (
    "out",
    "save_every",
    "log_every",
    "tensorboard",
    "eval_batch",
    "dense",
    "offload",
    "shard_saved",
    "patience",
)
# Settings younger than some checkpoints, which have what is now the default.
_LATER = ("form", "distill_hidden")
_NONE = object()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of ``edkm.train.run``."""

    model: Path  # folder or name of a transformers causal language model
    data: Path  # Alpaca or self-instruct .json/.jsonl, or plain .txt
    out: Path  # folder of the result, its checkpoints and metrics.json
    heldout: Path | None = None  # data to measure on; None: the last rows of ``data``
    heldout_share: float = 0.05  # of the rows, without ``heldout``
    bits: int = 3  # per weight that is no embedding
    embedding_bits: int = 8  # per embedding weight
    include: tuple[str, ...] = ()  # module names or patterns to cluster; empty: all
    exclude: tuple[str, ...] = ()  # module names or patterns to leave out
    plain: bool = False  # tune without clustering: the baseline
    epochs: float = 2.0  # passes over the data, unless max_steps is given
    max_steps: int | None = None  # optimizer steps
    batch_size: int = 8  # sequences per forward and process
    accumulate: int = 1  # forwards per optimizer step
    sequence: int = 256  # tokens
    packing: bool = True  # fill sequences with several examples, attention kept apart
    learning_rate: float = 5e-5  # peak, of AdamW
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # largest gradient norm
    warmup: int = 10  # optimizer steps of linear warm-up, then cosine to 0
    tau_start: float = DEFAULT_START  # multiples of var(W) / K**2
    tau_end: float = DEFAULT_END
    cluster_from: float = 0.0  # share of the run before clustering starts
    straight: float = 0.0  # share of the run, at its end, with hard weights
    iterations: int = 1  # k-means updates a step
    form: str = "auto"  # of DKM: "dense" (the paper's maps), "fused", "streaming", or the cheapest
    # sequences whose layer inputs set what a weight counts in k-means, and for which rounding is
    # compensated layer by layer, before tuning (0: plain k-means)
    compensate: int = 0
    # sequences on which the loss of each weight's rounding is measured, to give bits where they
    # save most, in the bytes of the uniform bits (0: the uniform bits)
    allocate: int = 0
    row_scale: bool = False  # divide rows by a scale of their own: 2 bytes a row in the file
    group_size: int | None = None  # rows of a linear layer that share a codebook; None: all
    distill: float = 0.0  # weight of the teacher's soft targets in the loss, 0 to 1
    distill_hidden: float = 0.0  # weight of the distance to the teacher's hidden states, added
    teacher: Path | None = None  # dense teacher; None: the model before tuning
    teacher_epochs: float = 0.0  # passes over the data, at most, that tune a dense teacher first
    teacher_rate: float = 1e-4  # peak learning rate of that teacher
    teacher_text: int = 0  # sequences that the teacher writes, tuned on like the data
    dtype: str = "auto"  # of the weights: "auto" (as stored), "float32", "bfloat16"
    seed: int = 0
    save_every: int = 100  # optimizer steps between checkpoints
    log_every: int = 10  # optimizer steps between log entries
    eval_batch: int = 16  # sequences per forward when measuring
    tensorboard: bool = False
    dense: bool = False  # also write a plain dense folder
    offload: bool = False  # keep on the host what autograd saves (edkm.saved.offload)
    shard_saved: bool = False  # keep 1/N of what autograd saves alike on all N processes (fsdp)
    patience: float = 10.0  # minutes that a process waits for another in a step (fsdp)
    fsdp: bool = False  # shard weights, gradients and optimizer over torchrun's processes
    extra: dict[str, str] = field(default_factory=dict)  # free notes, kept in metrics.json

    def __post_init__(self) -> None:
        check_range("bits", self.bits, 1, 8, "an index is stored in at most one byte")
        check_range("embedding_bits", self.embedding_bits, 1, 8, "at most one byte an index")
        for name in ("batch_size", "accumulate", "iterations", "save_every", "log_every"):
            check_range(name, getattr(self, name), 1, None, "a count is at least 1")
        check_range("sequence", self.sequence, 2, None, "predicting takes at least two tokens")
        for name in ("compensate", "allocate", "teacher_text"):
            check_range(name, getattr(self, name), 0, None, "a count cannot be negative")
        check_range("warmup", self.warmup, 0, None, "a count cannot be negative")
        if self.group_size is not None:
            check_range("group_size", self.group_size, 1, None, "a group has at least one row")
            if self.allocate:
                raise ValueError(
                    f"group_size is {self.group_size} and allocate {self.allocate}; bits are "
                    "allocated for one table a weight: give --allocate 0 with groups"
                )
        if self.max_steps is not None:
            check_range("max_steps", self.max_steps, 1, None, "a run has at least one step")
        for name in (
            *("epochs", "learning_rate", "clip", "tau_start", "tau_end", "teacher_rate"),
            "patience",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be a finite number above 0")
        for name in ("heldout_share", "cluster_from", "straight", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share: use 0 to 1")
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("form", self.form, FORMS)
        if self.form in ("dense", "fused"):
            for name in ("compensate", "row_scale", "group_size"):
                if getattr(self, name):
                    raise ValueError(
                        f"form is {self.form!r} and {name} {getattr(self, name)}, which has loops "
                        f"of its own; give form 'auto' or 'streaming', or no {name}"
                    )
        if self.compensate and self.cluster_from:
            raise ValueError(
                f"compensate is {self.compensate} and cluster_from {self.cluster_from}; rounding "
                "is compensated before the first step: use one of the two"
            )
        if not (math.isfinite(self.teacher_epochs) and self.teacher_epochs >= 0):
            raise ValueError(
                f"teacher_epochs is {self.teacher_epochs}; it must be a finite number, at least 0"
            )
        if self.shard_saved and not self.fsdp:
            raise ValueError(
                "shard_saved is given without fsdp, over whose processes it would share; add fsdp"
            )
        if not (math.isfinite(self.distill_hidden) and self.distill_hidden >= 0):
            raise ValueError(
                f"distill_hidden is {self.distill_hidden}; it must be a finite number, at least 0"
            )
        taught = self.teacher or self.teacher_epochs or self.teacher_text or self.distill_hidden
        if taught and self.distill == 0:
            raise ValueError(
                "a teacher is given but distill is 0; give its weight, for example 0.9"
            )
        if self.teacher_text and self.fsdp:
            raise ValueError(
                f"teacher_text is {self.teacher_text} with fsdp, whose teacher is in shards and "
                "writes nothing; give teacher_text 0"
            )

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.out / "checkpoints"

    @property
    def model_folder(self) -> Path:
        """Folder of the tuned model."""
        return self.out / "model"

    @property
    def dense_folder(self) -> Path:
        """Folder of the tuned model as a plain one, where ``dense`` asks for it."""
        return self.out / "dense"

    @property
    def own_teacher(self) -> Path | None:
        """Folder of the run that tunes the teacher; None if there is no such run."""
        tunes = self.teacher_epochs and self.teacher is None and not self.plain
        return self.out / "teacher" if tunes else None

    def as_json(self) -> dict[str, Any]:
        """Plain values, paths as text."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    def fingerprint(self) -> str:
        """Equal for settings under which a checkpoint may be resumed."""
        usual = {f.name: f.default for f in fields(self) if f.name in _LATER}
        kept = {
            k: v for k, v in self.as_json().items() if k not in _FREE and usual.get(k, _NONE) != v
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def with_preset(name: str, settings: dict[str, Any]) -> TrainConfig:
    """The preset's settings, each overridden by those given (None: not given)."""
    check_choice("preset", name, tuple(PRESETS))
    known = {f.name for f in fields(TrainConfig)}
    given = {key: value for key, value in settings.items() if value is not None}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"unknown settings {unknown}; choose from {', '.join(sorted(known))}")
    return TrainConfig(**{**PRESETS[name], **given})
