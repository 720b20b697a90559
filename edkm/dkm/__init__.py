"""Differentiable k-means of weights (DKM), dense and in forms that save next to nothing.

Here: the forms (dense, fused, streaming) and the door that picks one, the float64 gradient they
are measured against, initial centroids, temperature, the module.
Not here: what happens to saved tensors, palettized files, training loops.
"""

from edkm.dkm.assign import assign_hard, hard_indices, soft_hard_gap
from edkm.dkm.choose import choose_form, cluster_weight
from edkm.dkm.config import DKMConfig
from edkm.dkm.dense import ClusterResult, dense_dkm
from edkm.dkm.distance import euclidean_distance
from edkm.dkm.fused import fused_dkm
from edkm.dkm.init import initial_centroids
from edkm.dkm.module import DKM
from edkm.dkm.reference import GradientReference, gradient_reference
from edkm.dkm.repair import repair_centroids
from edkm.dkm.streaming import channel_scale, streaming_dkm
from edkm.dkm.temperature import TauSchedule, default_tau

__all__ = [
    "DKM",
    "ClusterResult",
    "DKMConfig",
    "GradientReference",
    "TauSchedule",
    "assign_hard",
    "channel_scale",
    "choose_form",
    "cluster_weight",
    "default_tau",
    "dense_dkm",
    "euclidean_distance",
    "fused_dkm",
    "gradient_reference",
    "hard_indices",
    "initial_centroids",
    "repair_centroids",
    "soft_hard_gap",
    "streaming_dkm",
]
