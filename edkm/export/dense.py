"""Write a palettized folder as a plain Hugging Face one, for tools that know no palettes.

Contract: every weight is its centroid, in the table's dtype; any transformers release loads it.
Boundary: as large as before clustering; sizes are kept by ``edkm.export.save`` only.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edkm.export.read import load
from edkm.export.write import check_replaceable, replace_folder

_KEEP = ("tokenizer", "special_tokens", "vocab", "merges", "chat_template")


def bake(folder: str | Path, out: str | Path) -> Path:
    """The dense model of the palettized ``folder`` in ``out``, with its tokenizer.

    Raises ``ValueError`` as ``edkm.load``, if ``out`` is ``folder`` and if it holds other things
    than a model; ``OSError`` as the disk says.
    """
    out, folder = Path(out), Path(folder)
    if out.resolve() == folder.resolve():
        raise ValueError(f"out is {out}, the palettized folder itself; give another, it would go")
    check_replaceable(out)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = load(folder, dense=True)
    try:
        model.save_pretrained(partial)
        for file in folder.iterdir():
            if file.name.startswith(_KEEP):
                shutil.copy2(file, partial / file.name)
        replace_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out
