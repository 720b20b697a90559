"""Held-out perplexities of a run, kept on the disk as they are found.

Contract: a resumed run still knows what was measured before its first step.
Boundary: when what is measured is ``edkm.train.job``'s.
"""

from __future__ import annotations

import json
from typing import Any

from edkm.clustering import Clustering
from edkm.evaluate import perplexity
from edkm.export.disk import write_whole
from edkm.train.config import TrainConfig
from edkm.train.prepare import Prepared


class Measure:
    """Held-out perplexities, by name."""

    def __init__(self, ready: Prepared, config: TrainConfig) -> None:
        self.model, self.rows, self.batch = ready.model, ready.heldout, config.eval_batch
        self.path = config.out / "perplexity.json"  # so that a resumed run knows the first ones
        self.found: dict[str, float] = {}
        if self.path.is_file():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def add(self, name: str, kind: Any, clustering: Clustering | None) -> None:
        if clustering is None:
            self.found[name] = perplexity(self.model, self.rows, batch=self.batch)
        else:
            with clustering.frozen(kind):
                self.found[name] = perplexity(self.model, self.rows, batch=self.batch)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.found))
