"""Fine-tune a language model while its weights are clustered: data, trainer, command.

Here: `python -m edkm.train` and the parts it is made of. Not here: the clustering itself
(`edkm.clustering`), files (`edkm.export`), tracing (`profiler`, through a callback).
"""

from edkm.train.config import PRESETS, TrainConfig
from edkm.train.errors import DataError, DivergedError, PeerLostError
from edkm.train.job import run

__all__ = ["PRESETS", "DataError", "DivergedError", "PeerLostError", "TrainConfig", "run"]
