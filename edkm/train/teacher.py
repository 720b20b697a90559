"""The dense teacher that a run tunes for itself: how long, and which one it takes.

Contract: passes of the data, each a plain run with a schedule of its own that begins where the one
before ended, ``teacher_epochs`` of them at most. The last ``heldout_share`` of the data is held
back from them; when a pass makes its perplexity worse there is no further one, and the teacher is
the best until then, be it the model itself. Each pass may be resumed.
Boundary: which run is next, and what came of the last; ``edkm.train.job`` runs it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from edkm.train.checkpoint import latest
from edkm.train.config import TrainConfig

# Settings of the run that its teacher's passes have too. Not those of clustering, so that runs with
# other bits may use the same teacher; not the held-out data: the data's own last rows choose, which
# without ``heldout`` are also those that the run is measured on.
_SHARED = (
    "data", "heldout_share", "batch_size", "accumulate", "sequence", "packing", "weight_decay",
    "beta1", "beta2", "clip", "warmup", "dtype", "save_every", "log_every", "eval_batch",
    "tensorboard", "offload", "fsdp", "patience",
)  # fmt: skip


def next_pass(config: TrainConfig) -> TrainConfig | None:
    """The run that tunes the teacher further, to be resumed; None if it is done or not asked for.

    ``ValueError`` if one is there that was tuned under other settings.
    """
    return _walk(config)[1]


def teacher_folder(config: TrainConfig) -> Path:
    """The model that the passes made so far chose."""
    return _walk(config)[0]


def _walk(config: TrainConfig) -> tuple[Path, TrainConfig | None]:
    best, folder = config.model, config.own_teacher
    if folder is None:
        return best, None
    shared = {name: getattr(config, name) for name in _SHARED}
    for number in range(math.ceil(config.teacher_epochs)):
        tuning = TrainConfig(
            **shared,
            model=best,
            out=folder / f"pass-{number + 1}",
            plain=True,
            epochs=min(1.0, config.teacher_epochs - number),
            learning_rate=config.teacher_rate,
            seed=config.seed + number,  # another order
        )
        metrics = tuning.out / "metrics.json"
        if latest(tuning.checkpoints, tuning.fingerprint()) is None or not metrics.is_file():
            return best, tuning
        found = json.loads(metrics.read_text(encoding="utf-8"))["perplexity"]
        if not found["after"] < found["dense"]:
            break
        best = tuning.model_folder
    return best, None
