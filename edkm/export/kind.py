"""What kind of model a folder holds, before anything is loaded: none, plain, palettized, damaged.

Contract: only headers of safetensors files are read. transformers takes a palettized folder for a
plain one whose weights are missing, and makes random ones; so ask here first.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from edkm.export.format import FILE, KEY


def is_palettized(folder: Path) -> bool:
    """Whether the model in ``folder`` is palettized.

    ``ValueError`` if ``folder`` holds no model, or a file of it that cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no model (config.json); give the folder of a transformers causal "
            "language model (config.json, model.safetensors, tokenizer)"
        )
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{folder / 'config.json'} is not JSON ({error}); copy or write it again"
        ) from error
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}); copy or write it again"
            ) from error
    return holds_palettes(folder)


def holds_palettes(folder: Path) -> bool:
    """Whether ``folder`` has a palettized file, of a language model or of any other module."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_plain(setting: str, folder: Path) -> None:
    """``ValueError`` as ``is_palettized``, and for a palettized folder; names ``setting``."""
    if is_palettized(folder):
        raise ValueError(
            f"{setting} {folder} is palettized, and tuning takes plain weights; write them with "
            f"`python -m edkm.export {folder} --dense OUT` and give OUT"
        )
