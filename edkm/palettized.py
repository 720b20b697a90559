"""Linear and Embedding layers that compute with a palettized weight.

Contract: what the layer returns equals that of the plain layer with the dense weight, to the
rounding of one matrix product; the dense weight never exists whole. A Linear unpacks a block of
rows, multiplies, and drops it (on CUDA a kernel unpacks in registers); an Embedding unpacks the
rows it is asked for.
Boundary: inference only, no gradient reaches the weight. The tensors are buffers, so ``to`` and
``state_dict`` work; files are ``edkm.export``'s.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from edkm.palette import Palette

# Weights unpacked at a time. Those of the smaller block, 4 MiB in float32, are multiplied while
# they are in cache, which is what counts for few inputs; many are better off with large products.
_BLOCK, _FEW_BLOCK = 1 << 22, 1 << 20
_FEW = 16  # rows of input


class PalettizedLayer(nn.Module):
    """Holds a ``Palette`` as the buffers ``table``, ``indices`` and ``scale``."""

    table: Tensor
    indices: Tensor
    scale: Tensor | None

    def __init__(self, palette: Palette) -> None:
        super().__init__()
        self.register_buffer("table", palette.table)
        self.register_buffer("indices", palette.packed)
        self.register_buffer("scale", palette.scale)
        self.shape, self.bits = palette.shape, palette.bits

    @property
    def palette(self) -> Palette:
        """The weight as it is held now, on the layer's device."""
        return Palette(self.table, self.indices, self.shape, self.bits, self.scale)

    @property
    def weight(self) -> Tensor:
        """The dense weight, made on request: for inspection, not for the forward."""
        return self.palette.dense()

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, bits={self.bits}, table={tuple(self.table.shape)}"


class PalettizedLinear(PalettizedLayer):
    """``nn.Linear`` over a palette of shape ``[out, in]``."""

    bias: Tensor | None

    def __init__(self, palette: Palette, bias: Tensor | None = None) -> None:
        super().__init__(palette)
        if len(palette.shape) != 2:
            raise ValueError(f"a Linear needs a weight [out, in]; got shape {palette.shape}")
        self.out_features, self.in_features = palette.shape
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, input: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch out"]:
        """``input @ W.T + bias``; on the CPU some rows of W at a time, on CUDA by a kernel."""
        out = self._by_kernel(input) if _has_kernel(input, self.table) else self._by_rows(input)
        return out if self.bias is None else out + self.bias

    def _by_rows(self, input: Tensor) -> Tensor:
        palette = self.palette
        few = input.numel() <= _FEW * self.in_features
        step = max(1, (_FEW_BLOCK if few else _BLOCK) // self.in_features)
        parts = [
            F.linear(input, palette.rows(start, min(start + step, self.out_features)))
            for start in range(0, self.out_features, step)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _by_kernel(self, input: Tensor) -> Tensor:
        from edkm.lut_matmul import lut_matmul

        flat = input.reshape(-1, self.in_features)
        out = lut_matmul(flat, self.table, self.indices, self.out_features, self.bits, self.scale)
        return out.view(*input.shape[:-1], self.out_features)


def _has_kernel(input: Tensor, table: Tensor) -> bool:
    usable = input.is_cuda and table.shape[-1] == 1 and input.dtype != torch.float64
    return usable and find_spec("triton") is not None


class PalettizedEmbedding(PalettizedLayer):
    """``nn.Embedding`` over a palette of shape ``[tokens, width]``."""

    def __init__(self, palette: Palette, padding_idx: int | None = None) -> None:
        super().__init__(palette)
        if len(palette.shape) != 2:
            raise ValueError(f"an Embedding needs a weight [tokens, width]; got {palette.shape}")
        self.num_embeddings, self.embedding_dim = palette.shape
        self.padding_idx = padding_idx

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """The rows numbered by ``input``. ``IndexError`` where one is out of range."""
        if input.numel() and not 0 <= int(input.min()) <= int(input.max()) < self.num_embeddings:
            raise IndexError(
                f"token ids run from {int(input.min())} to {int(input.max())}; the table has "
                f"{self.num_embeddings} rows"
            )
        wanted, back = torch.unique(input, return_inverse=True)
        palette = self.palette
        width = self.embedding_dim // palette.dim
        each = torch.arange(width, device=input.device)
        position = (wanted.unsqueeze(1) * width + each).reshape(-1)
        index = take_indices(self.indices, position, self.bits)
        rows = palette.look_up(index, position).view(wanted.numel(), self.embedding_dim)
        if self.scale is not None:
            rows = rows * self.scale[wanted].to(rows.dtype).unsqueeze(1)
        return rows[back]


def take_indices(packed: Tensor, positions: Tensor, bits: int) -> Tensor:
    """The indices at any ``positions`` of a bit stream (``edkm.palette``), as int64."""
    first = positions * bits
    at, shift = first >> 3, first & 7
    last = packed.numel() - 1
    # an index of at most 8 bits lies in two neighbouring bytes
    low = packed.index_select(0, at).to(torch.int64)
    high = packed.index_select(0, (at + 1).clamp_(max=last)).to(torch.int64)
    return ((low | (high << 8)) >> shift) & ((1 << bits) - 1)
