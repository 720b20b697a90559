"""Write a clustered model as a palettized folder.

Contract: the folder appears whole or not at all; what stood there before stays until the new one
is complete. Size: bits x weights / 8 + tables + the unclustered tensors + a small header.
Boundary: reading is ``edkm.export.read``; the file's layout is ``edkm.export.format``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from edkm.clustering import Clustering
from edkm.export.folders import replacing
from edkm.export.format import FILE, KEY, Header
from edkm.export.kind import holds_palettes
from edkm.export.parts import join, palette_entry, tensor_entry
from edkm.palette import Palette


def save(model: nn.Module, folder: str | Path, *, tokenizer: Any = None) -> Path:
    """Write ``model``, changed by ``edkm.cluster``, to ``folder``; returns the folder.

    With a transformers model its configuration goes along, and ``tokenizer`` if given, so that
    ``edkm.load`` can generate. An earlier palettized model in ``folder`` is replaced.
    ``ValueError`` if nothing is clustered or ``folder`` holds another model or other things;
    ``OSError`` as the disk says. In either case what ``folder`` held is intact.
    """
    clustering = Clustering.of(model)
    folder = Path(folder)
    palettes = clustering.palettes()
    rest, tied = _other_tensors(model, clustering)
    entries = {name: palette_entry(palette) for name, palette in palettes.items()}
    header = Header.make(entries | {n: tensor_entry(t) for n, t in rest.items()}, tied)
    with replacing(folder, own=holds_palettes) as new:
        save_file(
            join(header, palettes, rest),
            new / FILE,
            metadata={"format": "pt", KEY: header.dump()},
        )
        for part in ("config", "generation_config"):
            settings: Any = getattr(model, part, None)
            if hasattr(settings, "save_pretrained"):
                settings.save_pretrained(new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
    return folder


def size_bound(palettes: Mapping[str, Palette]) -> int:
    """Bytes that bits x weights / 8 + tables come to."""
    return sum(palette.nbytes for palette in palettes.values())


def _other_tensors(
    model: nn.Module, clustering: Clustering
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that are not clustered, once each, and the names tied to others."""
    names = {id(entry.weight): name for name, entry in clustering.weights.items()}
    rest: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    codebooks = {id(buffer) for e in clustering.weights.values() for buffer in e.codebook.buffers()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in codebooks:
            continue
        plain = plain_name(name)
        home = names.setdefault(id(tensor), plain)
        if home != plain:
            tied[plain] = home
        elif plain not in clustering.weights:
            rest[plain] = tensor
    return rest, tied


def plain_name(name: str) -> str:
    """The name a tensor has in the plain model."""
    return name.replace(".parametrizations.weight.original", ".weight")
