"""The tensors of a palettized file: many weights' parts one after another, and apart again.

Contract: ``split(header, join(header, palettes, others))`` gives back the same tensors. A file
that is cut, too long, or holds what cannot be is refused by ``ValueError`` with the weight's name.
Boundary: tensors in memory; the disk is ``edkm.export.write``'s and ``read``'s, the layout is
described in ``edkm.export.format``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edkm.export.format import Entry, Header
from edkm.palette import Palette, packed_bytes, unpack_indices


def palette_entry(palette: Palette) -> Entry:
    """How the file describes ``palette``."""
    clusters = palette.table.shape[-2]
    return Entry(
        shape=palette.shape,
        dtype=_name(palette.table.dtype),
        bits=palette.bits,
        clusters=0 if clusters == 1 << palette.bits else clusters,
        dim=palette.dim,
        groups=palette.groups,
        scaled=palette.scale is not None,
    )


def tensor_entry(tensor: Tensor) -> Entry:
    """How the file describes a tensor that is not clustered."""
    return Entry(shape=tuple(tensor.shape), dtype=_name(tensor.dtype))


def join(
    header: Header, palettes: Mapping[str, Palette], others: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the file holds, by its names there, on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    for name, entry in header.entries.items():
        if not entry.bits:
            parts.setdefault(f"tensors.{entry.dtype}", []).append(others[name])
            continue
        palette = palettes[name]
        parts.setdefault("indices", []).append(palette.packed)
        parts.setdefault(f"tables.{entry.dtype}", []).append(palette.table)
        if palette.scale is not None:
            parts.setdefault("scales", []).append(palette.scale)
    return {n: torch.cat([t.detach().cpu().reshape(-1) for t in ts]) for n, ts in parts.items()}


def split(
    header: Header, stored: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Palette], dict[str, Tensor]]:
    """(palettes, other tensors) by name."""
    cursor = _Cursor(stored, where)
    palettes, others = {}, {}
    for name, entry in header.entries.items():
        size = torch.Size(entry.shape).numel()
        if not entry.bits:
            others[name] = cursor.take(name, f"tensors.{entry.dtype}", entry.torch_dtype, size)
            others[name] = others[name].view(entry.shape)
            continue
        count = packed_bytes(size // max(1, entry.dim), entry.bits)
        packed = cursor.take(name, "indices", torch.uint8, count)
        clusters = entry.clusters or 1 << entry.bits
        entries = entry.groups * clusters * entry.dim
        table = cursor.take(name, f"tables.{entry.dtype}", entry.torch_dtype, entries)
        table = table.view(*((entry.groups,) if entry.groups > 1 else ()), clusters, entry.dim)
        rows = entry.shape[0] if entry.shape else 0
        scale = cursor.take(name, "scales", torch.bfloat16, rows) if entry.scaled else None
        palettes[name] = checked(name, table, packed, entry, scale, where)
    cursor.close()
    return palettes, others


def checked(
    name: str, table: Tensor, packed: Tensor, entry: Entry, scale: Tensor | None, where: str
) -> Palette:
    """A palette whose every number can be used. ``ValueError`` names the weight."""
    try:
        palette = Palette(table, packed, entry.shape, entry.bits, scale)
    except ValueError as error:
        raise ValueError(f"{where}: {name}: {error}") from error
    for part, values in (("table", table), ("scale", scale)):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(
                f"{where}: the {part} of {name} holds NaN or infinite values; the file is damaged "
                "or its training diverged: copy it again, or go back to an earlier checkpoint"
            )
    if table.shape[-2] < 1 << entry.bits:  # an index may point beyond
        largest = int(unpack_indices(packed, palette.vectors, entry.bits).max())
        if largest >= table.shape[-2]:
            raise ValueError(
                f"{where}: {name} has an index {largest} into a table of {table.shape[-2]}; the "
                "file is damaged: copy or write it again"
            )
    return palette


class _Cursor:
    """Takes the parts of each stored tensor in order."""

    def __init__(self, stored: Mapping[str, Tensor], where: str) -> None:
        self.stored, self.where = stored, where
        self.at = dict.fromkeys(stored, 0)

    def take(self, name: str, part: str, dtype: torch.dtype, count: int) -> Tensor:
        """The next ``count`` elements of ``part``, in memory of their own."""
        whole = self.stored.get(part)
        if whole is None or whole.dtype != dtype or whole.ndim != 1:
            found = "nothing" if whole is None else f"{whole.dtype} {tuple(whole.shape)}"
            raise ValueError(
                f"{self.where}: {name} is in {part!r}, which should be {dtype} and flat but is "
                f"{found}; copy or write the file again"
            )
        start = self.at[part]
        self.at[part] += count
        if self.at[part] > whole.numel():
            raise ValueError(
                f"{self.where}: {part!r} holds {whole.numel()} elements, but {name} is at {start} "
                f"to {self.at[part]}; the file is cut or misread: copy or write it again"
            )
        return whole[start : self.at[part]].clone()

    def close(self) -> None:
        """``ValueError`` if something was not asked for."""
        for part, whole in self.stored.items():
            if self.at[part] != whole.numel():
                raise ValueError(
                    f"{self.where}: {part!r} holds {whole.numel()} elements, of which the header "
                    f"describes {self.at[part]}; copy or write the file again"
                )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
