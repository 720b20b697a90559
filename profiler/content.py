"""What a tensor holds, in two small facts: a hash of sampled elements, and how many 16-bit values.

Contract: elements are taken at fixed places of the logical order, so that equal tensors of one
shape give equal hashes however they lie in memory, and a tensor and its transpose differ. At most
SAMPLES elements are hashed (all of them where there are no more); nothing of them is kept.
Boundary: reads tensors with plain storage on any device; None for all others.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

SAMPLES = 1024
_CHUNK = 1 << 20
_PATTERNS = 1 << 16


def content_hash(tensor: Tensor) -> str | None:
    """16 hexadecimal digits; None where the tensor's elements cannot be read."""
    if not _readable(tensor):
        return None
    flat, places = _flat(tensor), _places(tensor)
    with torch.no_grad():
        taken = flat[torch.from_numpy(places).to(flat.device)].cpu()
    data = taken.contiguous().view(torch.uint8).numpy().tobytes()
    about = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.blake2b(about + data, digest_size=8).hexdigest()


def distinct_values(tensor: Tensor) -> int | None:
    """How many bit patterns a tensor of a 16-bit type holds, exactly; None for other types."""
    if not _readable(tensor) or tensor.element_size() != 2 or tensor.is_complex():
        return None
    with torch.no_grad():
        present = torch.zeros(_PATTERNS, dtype=torch.bool, device=tensor.device)
        for part in torch.split(tensor.detach().reshape(-1), _CHUNK):
            present[part.view(torch.int16).to(torch.int32) & (_PATTERNS - 1)] = True
        return int(present.sum())


def _readable(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and tensor.numel() > 0
    )


def _flat(tensor: Tensor) -> Tensor:
    """The span of the storage that the tensor reaches over, without a copy."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((size - 1) * step for size, step in pairs)
    return tensor.detach().as_strided((span,), (1,), tensor.storage_offset())


def _places(tensor: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where the sampled elements lie in that span, in logical order."""
    count = tensor.numel()
    logical = np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(np.int64))
    places = np.zeros_like(logical)
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        logical, index = np.divmod(logical, size)
        places += index * step
    return places
