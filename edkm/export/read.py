"""Read a palettized folder: as palettes, as a model that computes with them, or dense.

Contract: ``load`` gives a transformers model in eval mode that generates; its clustered weights
stay packed unless ``dense=True``. Nothing is unpickled.
Boundary: writing is ``edkm.export.write``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edkm.export.format import FILE, VERSION, Header
from edkm.export.parts import checked, split
from edkm.palette import Palette
from edkm.palettized import PalettizedEmbedding, PalettizedLinear


def read_palettes(
    folder: str | Path,
) -> tuple[dict[str, Palette], dict[str, Tensor], dict[str, str]]:
    """(palettes, other tensors, tied names) of a palettized folder.

    ``ValueError`` if the file is missing, damaged, or of another kind.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the folder that edkm.train wrote as --out")
    try:
        with safe_open(path, "pt") as file:
            header = Header.parse(file.metadata(), str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); copy or write it again"
        ) from error
    if header.version == VERSION:
        palettes, others = split(header, tensors, str(path))
        return palettes, others, header.tied
    palettes = {}
    for name, entry in header.entries.items():
        missing = [part for part in ("table", "indices") if f"{name}.{part}" not in tensors]
        if missing:
            raise ValueError(f"{path} lacks {name}.{missing[0]}; copy or write it again")
        table, packed = tensors.pop(f"{name}.table"), tensors.pop(f"{name}.indices")
        scale = tensors.pop(f"{name}.scale", None)
        palettes[name] = checked(name, table, packed, entry, scale, str(path))
    return palettes, tensors, header.tied


def load(folder: str | Path, *, dense: bool = False, device: torch.device | str = "cpu") -> Any:
    """The transformers model in ``folder``, ready to generate, in eval mode on ``device``.

    ``dense=True`` unpacks every weight into a plain model, faster and as large as before
    clustering. Raises ``ValueError`` for a folder that is not a palettized model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    palettes, tensors, tied = read_palettes(folder)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    if dense:
        tensors.update({name: palette.dense() for name, palette in palettes.items()})
    else:
        insert_palettes(model, palettes, tied)
    _fill(model, tensors, tied)
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(device).eval()


def insert_palettes(model: nn.Module, palettes: dict[str, Palette], tied: dict[str, str]) -> None:
    """Put palettized layers in the place of Linear and Embedding layers, in place.

    A weight of any other layer becomes a dense tensor. Names are those of ``state_dict``.
    """
    homes = {
        **{name: name for name in palettes},
        **{a: b for a, b in tied.items() if b in palettes},
    }
    for name, home in homes.items():
        owner, _, leaf = name.rpartition(".")
        module, palette = model.get_submodule(owner), palettes[home]
        new: nn.Module
        if leaf == "weight" and isinstance(module, nn.Linear):
            new = PalettizedLinear(palette, None if module.bias is None else module.bias)
        elif leaf == "weight" and isinstance(module, nn.Embedding):
            new = PalettizedEmbedding(palette, module.padding_idx)
        else:
            setattr(module, leaf, nn.Parameter(palette.dense(), requires_grad=False))
            continue
        parent, _, last = owner.rpartition(".")
        setattr(model.get_submodule(parent), last, new)


def _fill(model: Any, tensors: dict[str, Tensor], tied: dict[str, str]) -> None:
    """Give every tensor still on the meta device its values."""
    state = {**tensors, **{a: tensors[b] for a, b in tied.items() if b in tensors}}
    wanted = {name for name, value in model.state_dict().items() if value.is_meta}
    if missing := sorted(wanted - set(state)):
        raise ValueError(
            f"the file lacks {len(missing)} tensors of the model, the first is {missing[0]!r}; its "
            "config.json belongs to another model"
        )
    known = model.state_dict()
    model.load_state_dict(
        {name: value for name, value in state.items() if name in known}, strict=False, assign=True
    )
    if not isinstance(model.get_input_embeddings(), PalettizedEmbedding):
        model.tie_weights()
    for module in model.modules():  # tables that are computed, not stored (rotary frequencies)
        computed = [name for name, b in module.named_buffers(recurse=False) if b.is_meta]
        for name in computed:
            empty = torch.empty_like(getattr(module, name), device="cpu")
            module.register_buffer(name, empty, persistent=False)
        if computed:
            model._init_weights(module)
