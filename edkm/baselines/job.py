"""One row's work: a model, a method, bits, and the data that every method shares.

Contract: a frozen value that travels as JSON; bad values raise ``ValueError``. ``compress`` turns
it into a folder that ``edkm.baselines.packed.load`` reads back. Rows of the training text are cut
in one way, for calibration and for tuning.
Boundary: which method does what is in the modules that ``compress`` names.
"""

from __future__ import annotations

import importlib
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edkm.dkm.checks import check_choice, check_range
from edkm.train.data import Sequence, read_examples, tokenize

# Method, and the module and function that do it.
METHODS: dict[str, tuple[str, str]] = {
    "dense": ("clustered", "dense"),
    "rtn": ("calibrated", "rtn"),
    "smoothquant": ("calibrated", "smoothquant"),
    "gptq": ("calibrated", "gptq"),
    "awq": ("calibrated", "awq"),
    "llm-qat": ("qat", "llm_qat"),
    "kmeans": ("palettizers", "kmeans"),
    "dkm": ("palettizers", "dkm"),
    "edkm": ("clustered", "edkm"),
    "edkm-allocated": ("clustered", "edkm_allocated"),
    "edkm-chosen": ("clustered", "edkm_chosen"),
}
# See steps x batch x sequence tokens.
TRAINED = ("dense", "llm-qat", "dkm", "edkm", "edkm-allocated", "edkm-chosen")
STARTS = ("given", "tuned")  # compressed: the model itself, or that model tuned dense first
# No calibration, no order, no drawn start (k-means of one dimension is exact): one seed is enough.
SEEDLESS = ("rtn", "kmeans")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Compress ``model`` by ``method``."""

    method: str
    model: Path  # folder of a transformers causal language model
    text_train: Path  # calibration and tuning; plain text or instructions
    text_heldout: Path  # what perplexity is measured on
    out: Path  # folder of this row's work
    bits: int  # per weight of a linear layer
    group_size: int  # weights that share a scale, where a method has scales
    embedding_bits: int = 8  # embeddings, and the head tied to them, in every method
    calibration: int = 32  # sequences of the training text that post-training methods see
    steps: int = 150  # optimizer steps of trained methods
    batch: int = 8  # sequences a step
    sequence: int = 256  # tokens
    learning_rate: float = 3e-4  # peak, of methods that train quantized or clustered weights
    dense_rate: float = 1e-4  # peak, of the dense model tuned as long
    preset: str = "quality"  # edkm.train's preset for the eDKM row
    tasks: Path | None = None  # folder of local rows for lm-eval; None: no tasks
    seed: int = 0  # of the calibration rows, the order of batches, the start of k-means
    name: str = ""  # of the row in its table; empty: the method's
    start: str = "given"  # of ``STARTS``; "tuned" for methods that do not train themselves
    shared: Path | None = None  # folder of work that rows of a table share; None: within ``out``

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(METHODS))
        check_choice("start", self.start, STARTS)
        if self.start == "tuned" and self.method in TRAINED:
            raise ValueError(
                f"start is 'tuned', but {self.method} trains by itself; use 'given', or a method "
                "that does not train"
            )
        check_range("bits", self.bits, 2, 8, "the peers' integers have at least two bits")
        check_range("embedding_bits", self.embedding_bits, 2, 8, "as for bits")
        check_range("sequence", self.sequence, 2, None, "predicting takes at least two tokens")
        for name in ("group_size", "calibration", "steps", "batch"):
            check_range(name, getattr(self, name), 1, None, "a count is at least 1")
        for name in ("learning_rate", "dense_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use a rate between 0 and 1")

    @property
    def common(self) -> Path:
        """Folder of work that other rows may share."""
        return self.shared or self.out / "shared"

    def as_json(self) -> dict[str, Any]:
        """Plain values, paths as text."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        """The job that ``as_json`` gave."""
        paths = ("model", "text_train", "text_heldout", "out", "tasks", "shared")
        found: dict[str, Any] = {k: Path(v) if k in paths and v else v for k, v in values.items()}
        return cls(**found)


def compress(job: Job) -> Path:
    """Do the job; the folder of the compressed model, its tokenizer beside it."""
    if job.start == "tuned":
        from edkm.baselines.clustered import tuned

        job = replace(job, model=tuned(job), start="given")
    module, function = METHODS[job.method]
    folder: Path = getattr(importlib.import_module(f"edkm.baselines.{module}"), function)(job)
    return folder


def read_rows(path: Path, tokenizer: Any, sequence: int) -> list[Sequence]:
    """The text or the instructions in ``path`` as packed sequences."""
    return tokenize(read_examples(path), tokenizer, sequence, packing=True)


def calibration_rows(job: Job, tokenizer: Any) -> list[Sequence]:
    """The sequences that every post-training method of this seed is calibrated on."""
    rows = read_rows(job.text_train, tokenizer, job.sequence)
    if len(rows) <= job.calibration:
        return rows
    return [
        rows[i] for i in sorted(random.Random(job.seed).sample(range(len(rows)), job.calibration))
    ]


def load_source(job: Job) -> tuple[Any, Any]:
    """(model in float32, tokenizer) to compress."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edkm.export.kind import check_plain

    check_plain("model", job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(job.model)
