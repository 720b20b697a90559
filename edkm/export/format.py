"""The palettized file: what its metadata says, and how it is checked.

Contract: ``model.safetensors`` holds, for each clustered weight NAME, ``NAME.table`` ``[k, d]``
and ``NAME.indices`` (uint8, one bit stream; see ``edkm.palette``), for some ``NAME.scale``
``[rows]`` (bfloat16, multiplies rows), and every other tensor under its own name. The metadata key
``edkm`` is JSON: the version, bits and shape of each palette, and which names are tied to which.
Boundary: no tensors here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

FILE = "model.safetensors"
KEY = "edkm"
VERSION = 2
READS = (1, 2)  # 1 had no scales


@dataclass(frozen=True)
class Header:
    """What the metadata of a palettized file says."""

    weights: dict[str, tuple[int, tuple[int, ...]]]  # name: bits, shape
    tied: dict[str, str]  # name: the name it shares its tensor with

    def dump(self) -> str:
        """As stored in the file."""
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def parse(cls, metadata: dict[str, str] | None, where: str) -> Header:
        """From a file's metadata. ``ValueError`` if it is no palettized file of this version."""
        text = (metadata or {}).get(KEY)
        if text is None:
            raise ValueError(
                f"{where} is not a palettized model: its metadata has no {KEY!r}; use a folder "
                "that edkm.train or edkm.export.save wrote, or transformers' from_pretrained"
            )
        found = json.loads(text)
        if found.get("version") not in READS:
            raise ValueError(
                f"{where} has format version {found.get('version')}; this release reads up to "
                f"{VERSION}: install the release that wrote it"
            )
        weights = {name: (bits, tuple(shape)) for name, (bits, shape) in found["weights"].items()}
        return cls(weights, found["tied"])
