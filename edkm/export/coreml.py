"""Core ML: a palettized folder as an ``.mlpackage`` whose weights stay look-up tables.

Contract: every clustered weight becomes one ``constexpr_lut_to_dense`` operation with our table
(or tables, one for each block of rows) and our indices, times one
``constexpr_blockwise_shift_scale`` where its rows have scales. coremltools learns of them by its
own palettization metadata (buffers that name the table), not by clustering again. Runs on Linux;
predicting needs macOS.
Boundary: a fixed length of token ids, no cache. Works with coremltools 9.0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edkm.export.folders import check_replaceable, replacing
from edkm.export.read import load, read_palettes
from edkm.palette import Palette

_MASKED = -1e4  # representable in float16, unlike -inf through a softmax


def to_coreml(
    folder: str | Path, out: str | Path | None = None, *, length: int = 64, force: bool = False
) -> Any:
    """The language model in ``folder`` as an ML program from ``[1, length]`` token ids to logits.

    Written to ``out`` (``.mlpackage``) if given; returns coremltools' model. Raises
    ``ValueError`` as ``edkm.load``, for a length the model does not take and for an ``out`` that
    is no package or one and not ``force``, ``ImportError`` without coremltools.
    """
    ct: Any = import_module("coremltools")

    if out is not None:
        _check_out(Path(out), force)
    palettes, _, tied = read_palettes(folder)
    model = load(folder, dense=True)
    longest = getattr(model.config, "max_position_embeddings", length)
    if not 1 <= length <= longest:
        raise ValueError(f"length is {length}; the model takes 1 to {longest} tokens")
    model.set_attn_implementation("eager")
    mark_palettized(model, {**palettes, **{a: palettes[b] for a, b in tied.items()}})
    ids = torch.zeros(1, length, dtype=torch.int32)
    with torch.no_grad(), _whole_numbers():
        traced = torch.jit.trace(_Fixed(model, length), ids, check_trace=False)
        program = ct.convert(
            traced,
            inputs=[ct.TensorType(name="input_ids", shape=(1, length), dtype=int)],
            outputs=[ct.TensorType(name="logits")],
            minimum_deployment_target=ct.target.iOS18,
            compute_units=ct.ComputeUnit.CPU_ONLY,
        )
    if out is not None:
        with replacing(Path(out), force=force, kind=_is_package) as new:
            program.save(str(new))
    return program


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != ".mlpackage":
        raise ValueError(f"out is {out}; Core ML programs are folders named NAME.mlpackage")
    check_replaceable(out, force=force, kind=_is_package)


def _is_package(folder: Path) -> bool:
    return (folder / "Manifest.json").is_file()


def mark_palettized(model: nn.Module, palettes: dict[str, Palette]) -> None:
    """Tell coremltools which weights (names as in ``state_dict``) have which tables, in place.

    ``model`` must hold the dense, hard-assigned weights. For converting any module of your own.
    """
    metadata: Any = import_module("coremltools.optimize.torch._utils.metadata_utils")

    for name, palette in palettes.items():
        owner, _, leaf = name.rpartition(".")
        table = palette.table
        if palette.dim != 1:
            raise ValueError(
                f"{name} has cluster vectors of {palette.dim} weights; this export takes scalars"
            )
        dims = (palette.groups, *(1,) * (len(palette.shape) - 1))
        known = metadata.CompressionMetadata(leaf)
        known.compression_type = ["palettization"]
        known.lut = table.view(*dims, -1, 1)
        if palette.scale is not None:
            known.palettization_scale = palette.scale.float().view(-1, *dims[1:])
        known.register(model.get_submodule(owner))
    metadata.register_metadata_version(model)


class _Fixed(nn.Module):
    """Logits of a fixed number of tokens; the mask and the positions are constants."""

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model = model
        mask = torch.full((1, 1, length, length), _MASKED).triu(1)
        self.register_buffer("mask", mask)
        self.register_buffer("positions", torch.arange(length).unsqueeze(0))

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            use_cache=False,
        ).logits
        return logits


@contextlib.contextmanager
def _whole_numbers() -> Iterator[None]:
    """coremltools 9.0 makes Python numbers of one-element arrays, which numpy 2.4 refuses."""
    ops: Any = import_module("coremltools.converters.mil.frontend.torch.ops")

    keep = ops._cast

    def cast(context: Any, node: Any, dtype: Any, name: str) -> None:
        if dtype is bool:
            keep(context, node, dtype, name)
            return

        class Scalar(dtype):  # type: ignore[misc]
            def __new__(cls, value: Any) -> Any:
                return dtype(value.item() if hasattr(value, "item") else value)

        keep(context, node, Scalar, name)

    ops._cast = cast
    try:
        yield
    finally:
        ops._cast = keep
