"""Write a clustered model as a palettized folder.

Contract: the folder appears whole or not at all; what stood there before stays until the new one
is complete. Size: bits x weights / 8 + tables + the unclustered tensors + a small header.
Boundary: reading is ``edkm.export.read``; the file's layout is ``edkm.export.format``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from edkm.clustering import Clustering
from edkm.export.format import FILE, KEY, Header
from edkm.export.parts import join, palette_entry, tensor_entry
from edkm.palette import Palette


def save(model: nn.Module, folder: str | Path, *, tokenizer: Any = None) -> Path:
    """Write ``model``, changed by ``edkm.cluster``, to ``folder``; returns the folder.

    With a transformers model its configuration goes along, and ``tokenizer`` if given, so that
    ``edkm.load`` can generate. ``ValueError`` if nothing is clustered or ``folder`` holds other
    things than a model; ``OSError`` as the disk says, in which case an earlier model is intact.
    """
    clustering = Clustering.of(model)
    folder = Path(folder)
    check_replaceable(folder)
    palettes = clustering.palettes()
    rest, tied = _other_tensors(model, clustering)
    entries = {name: palette_entry(palette) for name, palette in palettes.items()}
    header = Header.make(entries | {n: tensor_entry(t) for n, t in rest.items()}, tied)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file(
            join(header, palettes, rest),
            partial / FILE,
            metadata={"format": "pt", KEY: header.dump()},
        )
        for part in ("config", "generation_config"):
            settings: Any = getattr(model, part, None)
            if hasattr(settings, "save_pretrained"):
                settings.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def check_replaceable(folder: Path) -> None:
    """``ValueError`` unless ``folder`` is new, empty, or a model alone, which may be replaced."""
    if not folder.exists():
        return
    held = list(folder.iterdir()) if folder.is_dir() else [folder]
    model = any(path.name == "config.json" or path.suffix == ".safetensors" for path in held)
    if held and not (model and all(path.is_file() for path in held) and folder.is_dir()):
        raise ValueError(
            f"{folder} holds other things than a model, which would be replaced; give a new name"
        )


def replace_folder(new: Path, old: Path) -> None:
    """Rename ``new`` to ``old``; what was there is removed only when ``new`` is in its place."""
    if not old.exists():
        os.replace(new, old)
        return
    aside = old.with_name(f"{old.name}.previous")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(old, aside)
    os.replace(new, old)
    shutil.rmtree(aside)


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
