"""A clustered model on disk and back: palettized safetensors, plain Hugging Face, Core ML.

Here: folders that ``edkm.load`` reads and that other tools read. Not here: training
(`edkm.train`), packing (`edkm.palette`), layers (`edkm.palettized`).
"""

from edkm.export.dense import bake
from edkm.export.read import load, read_palettes
from edkm.export.write import save, size_bound

__all__ = ["bake", "load", "read_palettes", "save", "size_bound"]
