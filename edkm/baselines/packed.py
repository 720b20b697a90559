"""Integer weights on disk, in the layout of compressed-tensors, and back as a dense model.

Contract: ``NAME.weight_packed`` (32 integers of b bits in b words), ``weight_scale`` (float16,
one for each group of a row), ``weight_zero_point`` (packed likewise; absent if symmetric),
``weight_shape``. A head tied to the embedding is stored once. What is read back is what was
written: perplexity is measured on the file.
Boundary: packing and unpacking are compressed-tensors' own; transformers cannot reload a packed
embedding (it asks it for ``.weight``), which is why reading is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "model.safetensors"
_PACKED, _SCALE, _ZERO, _SHAPE = (
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
)


@dataclass(frozen=True)
class Integers:
    """A weight as integers: ``(values - zero) * scale``, group by group of a row."""

    values: Int[Tensor, "n k"]  # int8, from -2**(bits - 1)
    scale: Float[Tensor, "n g"]
    zero: Int[Tensor, "n g"] | None  # None: symmetric
    bits: int

    def dequantize(self) -> Float[Tensor, "n k"]:
        """The weight, in float32."""
        rows, columns = self.values.shape
        values = self.values.float().view(rows, self.scale.shape[1], -1)
        if self.zero is not None:
            values = values - self.zero.float().unsqueeze(-1)
        return (values * self.scale.float().unsqueeze(-1)).view(rows, columns)


def write_integers(
    weights: dict[str, Integers], rest: dict[str, Tensor], source: Any, tokenizer: Any, folder: Path
) -> Path:
    """Write weights by module name, other tensors by their own, and ``source``'s configuration."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    tensors = dict(rest)
    for name, weight in weights.items():
        # the reader takes the bits from the shapes, and 32 integers fill whole words
        assert weight.values.shape[1] >= 32, name
        tensors[f"{name}.{_PACKED}"] = pack_to_int32(weight.values, weight.bits).contiguous()
        tensors[f"{name}.{_SCALE}"] = weight.scale.half().contiguous()
        tensors[f"{name}.{_SHAPE}"] = torch.tensor(weight.values.shape)
        if weight.zero is not None:
            zero = pack_to_int32(weight.zero.to(torch.int8), weight.bits, packed_dim=0)
            tensors[f"{name}.{_ZERO}"] = zero.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    source.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def halve_scales(folder: Path) -> None:
    """Store the scales of a file that llmcompressor wrote in 16 bits, as its users do."""
    with safe_open(folder / FILE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    for name in tensors:
        if name.endswith(_SCALE):
            tensors[name] = tensors[name].half()
    save_file(tensors, folder / FILE, metadata=metadata)


def read_integers(folder: Path) -> tuple[dict[str, Integers], dict[str, Tensor]]:
    """(integer weights by module name, other tensors by their own)."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    with safe_open(folder / FILE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights = {}
    for name in [key for key in tensors if key.endswith(f".{_PACKED}")]:
        module = name.removesuffix(f".{_PACKED}")
        packed, scale = tensors.pop(name), tensors.pop(f"{module}.{_SCALE}")
        shape = torch.Size(tensors.pop(f"{module}.{_SHAPE}").tolist())
        bits = packed.shape[1] * 32 // shape[1]
        zero = tensors.pop(f"{module}.{_ZERO}", None)
        if zero is not None:
            zero = unpack_from_int32(zero, bits, scale.shape, packed_dim=0)
        weights[module] = Integers(unpack_from_int32(packed, bits, shape), scale, zero, bits)
    return weights, tensors


def load_integers(folder: Path) -> Any:
    """A plain transformers model in eval mode with the weights that the file holds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    weights, rest = read_integers(folder)
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    state = {**rest, **{f"{name}.weight": w.dequantize() for name, w in weights.items()}}
    missing, unexpected = model.float().load_state_dict(state, strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise ValueError(
            f"{folder} does not fit its configuration: unexpected {unexpected}, missing {missing}; "
            "write it again"
        )
    model.tie_weights()
    return model.eval()


def load(folder: Path) -> Any:
    """The model that any method wrote: integers, palettes, or plain. Dense, in eval mode."""
    from edkm.evaluate.__main__ import load_any

    with safe_open(folder / FILE, "pt") as file:
        if any(name.endswith(f".{_PACKED}") for name in file.keys()):
            return load_integers(folder)
    return load_any(folder)
