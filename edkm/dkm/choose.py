"""One door to all forms: it picks the cheapest exact one and says which.

Contract: ``cluster_weight`` gives the same values and gradients whichever form it picks, to the
rounding of the weight's dtype. ``choose_form`` is the rule, on plain numbers.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from jaxtyping import Shaped
from torch import Tensor

from edkm.dkm.checks import FORMS, check_choice, check_dtype
from edkm.dkm.dense import DEFAULT_CLUSTERS, ClusterResult, dense_dkm
from edkm.dkm.fused import fused_dkm
from edkm.dkm.init import initial_centroids
from edkm.dkm.patterns import is_patterned
from edkm.dkm.settings import Settings
from edkm.dkm.streaming import streaming_dkm

Form = Literal["dense", "fused", "streaming"]
# Below this a 512 KiB histogram is more than the weight; a tile is then the whole weight.
FUSED_FROM = 1 << 14
# Up to this many n x k elements a whole dense graph is smaller than one tile.
DENSE_UP_TO = 1 << 12


def choose_form(
    numel: int,
    clusters: int,
    dim: int,
    dtype: torch.dtype,
    *,
    groups: int = 1,
    scaled: bool = False,
) -> Form:
    """The cheapest form that is exact for such a weight.

    ``fused`` for 16-bit weights with one scalar codebook, unless they are small; ``dense`` where
    its maps are tiny and not rounded to 16 bits; ``streaming`` for all else.
    """
    if groups == 1 and not scaled:
        if is_patterned(dtype) and dim == 1 and numel >= FUSED_FROM:
            return "fused"
        if not is_patterned(dtype) and numel // dim * clusters <= DENSE_UP_TO:
            return "dense"
    return "streaming"


def cluster_weight(
    weight: Shaped[Tensor, "*shape"],
    centroids: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    form: str = "auto",
    **settings: Unpack[Settings],
) -> ClusterResult:
    """Cluster ``weight`` softly by the cheapest exact form; the result's ``form`` names it.

    Arguments as ``dense_dkm`` and, for groups and scales, ``streaming_dkm``. ``form`` other than
    ``"auto"`` insists on one; ``ValueError`` if that one cannot do what is asked.
    """
    check_choice("form", form, FORMS)
    check_dtype(weight)
    if centroids is None:
        centroids = initial_centroids(weight, DEFAULT_CLUSTERS)
    groups = centroids.shape[0] if centroids.ndim == 3 else 1
    if form == "auto":
        clusters, dim = centroids.shape[-2:] if centroids.ndim in (2, 3) else (1, 1)
        form = choose_form(
            weight.numel(), clusters, dim, weight.dtype, groups=groups, scaled=scale is not None
        )
    elif form != "streaming" and (groups > 1 or scale is not None):
        raise ValueError(
            f"form is {form!r} with {'a scale' if groups == 1 else f'{groups} groups'}; only "
            "form='streaming' takes groups and scales: use it or 'auto'"
        )
    if form == "streaming":
        return streaming_dkm(weight, centroids, scale=scale, **settings)
    run = fused_dkm if form == "fused" else dense_dkm
    codebook = centroids.squeeze(0) if centroids.ndim == 3 else centroids
    result = run(weight, codebook, **settings)
    return result._replace(centroids=result.centroids.view(centroids.shape))
