"""How long a table will take, before it is begun.

Contract: seconds of processor, from the measured cost of one token through the model and the
passes that each method makes. Within about a factor of two: the passes were counted on LLaMAs of
3M parameters, where the work around the products weighs more than in larger ones.
Boundary: arithmetic only; the token is timed by ``edkm.compare.worker``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edkm.baselines.job import TRAINED, Job

ROW_SECONDS = 4.0  # to begin, to write and to read back, whatever the method
# Tokens through the model forward, for each token of calibration or tuning; backward is two more.
PASSES = {
    "dense": 3.0, "rtn": 0.0, "smoothquant": 2.5, "gptq": 4.0, "awq": 23.0, "llm-qat": 5.0,
    "kmeans": 0.0, "dkm": 6.0, "edkm": 8.0, "edkm-allocated": 9.0,
    "edkm-chosen": 24.0,  # three recipes, one of them without a teacher
}  # fmt: skip
WRITTEN = 4.0  # passes for each token that a teacher writes


def estimate(jobs: Sequence[Job], probe: dict[str, Any]) -> float:
    """Seconds of processor for ``jobs``; work that they share counts once a seed."""
    a_token = float(probe["token_seconds"])
    total = 0.0
    shared = set()
    for job in jobs:
        tuning = job.steps * job.batch * job.sequence
        tokens = tuning if job.method in TRAINED else job.calibration * job.sequence
        total += ROW_SECONDS + a_token * probe["heldout_tokens"]
        if job.start == "tuned" or job.method == "dense":
            shared.add(("dense", job.seed, PASSES["dense"] * tuning))
        if job.method == "llm-qat":
            shared.add(("llm-qat", job.seed, WRITTEN * tuning))
        if job.method != "dense":
            total += a_token * tokens * PASSES[job.method]
    return total + a_token * sum(tokens for _, _, tokens in shared)
