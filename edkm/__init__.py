"""eDKM: differentiable k-means clustering of weights, and what it keeps for backward.

Here: the method (arXiv 2309.00964). Not here: tracing and pictures (`profiler`, `dashboard`),
which this package never imports.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edkm import export
    from edkm.allocation import allocate
    from edkm.annealing import schedule
    from edkm.clustering import cluster
    from edkm.export import load

__all__ = ["allocate", "cluster", "export", "load", "schedule"]

# Imported at first use: `import edkm` alone must stay cheap.
_HOMES = {
    "allocate": "edkm.allocation",
    "cluster": "edkm.clustering",
    "schedule": "edkm.annealing",
    "load": "edkm.export",
}


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("edkm.export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
