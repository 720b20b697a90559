"""Which layer of which model: presets by shape, layer names, names of matrices.

Contract: names only; a wrong one gives an error that lists the valid ones.
Boundary: imports no torch, so that the command line can check its arguments at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
_LAYER = re.compile(r"(attn|mlp)(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The shape of a published LLaMA-like model; weights are made from the seed."""

    hidden: int  # width of the residual stream
    intermediate: int  # width of the MLP
    layers: int
    key_value: int  # rows of k_proj and v_proj

    def shape(self, matrix: str) -> tuple[int, int]:
        """(rows, columns) of a matrix, as `nn.Linear.weight` has them."""
        rows = {
            "k_proj": self.key_value,
            "v_proj": self.key_value,
            "gate_proj": self.intermediate,
            "up_proj": self.intermediate,
        }
        columns = self.intermediate if matrix == "down_proj" else self.hidden
        return rows.get(matrix, self.hidden), columns


PRESETS = {
    "llama-7b": Preset(hidden=4096, intermediate=11008, layers=32, key_value=4096),
    "llama-3b": Preset(hidden=3200, intermediate=8640, layers=26, key_value=3200),
    "llama-1b": Preset(hidden=2048, intermediate=5632, layers=22, key_value=256),
    "llama-160m": Preset(hidden=768, intermediate=3072, layers=12, key_value=768),
    "llama-tiny": Preset(hidden=256, intermediate=688, layers=4, key_value=256),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerName:
    """`attn0` or `mlp3`: which layer, and which of its matrices."""

    kind: str
    index: int
    matrices: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}{self.index}"


def parse_layer(layer: str, layers: int, matrix: str | None) -> LayerName:
    """Read `--layer` and `--matrix` for a model of so many layers; None: the layer's first matrix.

    Raises:
        ValueError: no such layer or matrix; the message lists the valid ones.
    """
    match = _LAYER.fullmatch(layer)
    if match is None or int(match[2]) >= layers:
        raise ValueError(
            f"layer {layer!r}: no such layer; valid are attn0 ... attn{layers - 1} and "
            f"mlp0 ... mlp{layers - 1}"
        )
    names = KINDS[match[1]]
    if matrix not in (None, "all", *names):
        raise ValueError(
            f"matrix {matrix!r}: {layer} has no such matrix; valid are {', '.join(names)} and all"
        )
    chosen = names if matrix == "all" else (matrix or names[0],)
    return LayerName(kind=match[1], index=int(match[2]), matrices=chosen)


def is_checkpoint(model: str) -> bool:
    """Whether a model's name means a folder rather than a preset."""
    return model not in PRESETS and ("/" in model or Path(model).exists())
