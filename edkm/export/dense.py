"""Write a palettized folder as a plain Hugging Face one, for tools that know no palettes.

Contract: every weight is its centroid, in the table's dtype; any transformers release loads it.
Boundary: as large as before clustering; sizes are kept by ``edkm.export.save`` only.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edkm.export.folders import replacing
from edkm.export.read import load

_KEEP = ("tokenizer", "special_tokens", "vocab", "merges", "chat_template")


def bake(folder: str | Path, out: str | Path, *, force: bool = False) -> Path:
    """The dense model of the palettized ``folder`` in ``out``, with its tokenizer.

    Raises ``ValueError`` as ``edkm.load``, if ``out`` is ``folder``, if it holds a model and not
    ``force``, and if it holds other things; ``OSError`` as the disk says. What ``out`` held is
    intact then.
    """
    out, folder = Path(out), Path(folder)
    if out.resolve() == folder.resolve():
        raise ValueError(f"out is {out}, the palettized folder itself; give another, it would go")
    with replacing(out, force=force) as new:
        load(folder, dense=True).save_pretrained(new)
        for file in folder.iterdir():
            if file.name.startswith(_KEEP):
                shutil.copy2(file, new / file.name)
    return out
