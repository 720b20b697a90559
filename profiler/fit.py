"""Will it fit? Predicts the memory that an ablation needs, before anything is made.

Contract: the prediction is of the hungriest row, and errs high; too little memory gives an error
that says how much is needed, how much there is, and what would fit.
Boundary: arithmetic on sizes; nothing is allocated.
"""

from __future__ import annotations

import torch

from profiler.ablation_rows import CONFIGS, AblationSettings
from profiler.layers import PRESETS
from profiler.memory import available_memory

_MAPS, _WEIGHTS = 6, 2  # what one dense iteration saves: maps (N x K) and weights (N)
_AT_ONCE = 5  # maps that forward or backward itself has alive at once
_BASE = 700 << 20  # interpreter and libraries
_GIB = 1 << 30


def estimate_bytes(elements: int, itemsize: int, settings: AblationSettings) -> int:
    """Predicted memory of the hungriest row, in bytes.

    Args:
        elements: weights of all clustered matrices.
        itemsize: bytes of one weight.
        settings: bits, iterations and rows.
    """
    weight = elements * itemsize
    maps = weight << settings.bits
    saved = max(_saved(name, maps, weight) for name in settings.configs) * settings.iterations
    reference = 2 * 8 * elements  # the float64 gradient, and its making
    return _BASE + saved + _AT_ONCE * maps + 4 * weight + reference


def check_memory(
    elements: int, itemsize: int, settings: AblationSettings, device: torch.device
) -> None:
    """Refuse what cannot fit.

    Raises:
        ValueError: more is needed than there is; names both and a smaller preset.
    """
    need, there = estimate_bytes(elements, itemsize, settings), _available(device)
    if need <= there:
        return
    smaller = [
        name
        for name, preset in PRESETS.items()
        if estimate_bytes(preset.hidden * preset.hidden, itemsize, settings) <= there
    ]
    advice = f"try --model {smaller[0]}" if smaller else "no preset would fit"
    raise ValueError(
        f"memory: this ablation needs about {need / _GIB:.1f} GiB, {there / _GIB:.1f} GiB are "
        f"available; {advice}, fewer --bits, fewer --iterations or a single --matrix"
    )


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        ValueError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {name!r}: cannot be used ({reason}); give cpu, cuda or auto"
        ) from error
    return device


def _saved(name: str, maps: int, weight: int) -> int:
    row = CONFIGS[name]
    if row.fused:
        return weight
    if row.uniquify:
        return _MAPS * weight if row.marshal else (_MAPS + _WEIGHTS) * weight
    return 2 * maps + weight if row.marshal else _MAPS * maps + _WEIGHTS * weight


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return min(torch.cuda.mem_get_info(device)[0], available_memory())
    return available_memory()
