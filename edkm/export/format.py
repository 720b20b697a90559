"""The palettized file: what its metadata says, and how it is checked.

Contract: ``model.safetensors`` holds few tensors, each the parts of many weights one after
another, in the order in which the metadata key ``edkm`` lists them:

    ``indices``        uint8: of each clustered weight the bit stream (``edkm.palette``)
    ``tables.DTYPE``   of each clustered weight the table or tables, ``[groups, k, d]``
    ``scales``         bfloat16: of some clustered weights one value a row
    ``tensors.DTYPE``  every other tensor

``edkm`` is JSON: the version, the commonest dtype, which names are tied to which, and
``tensors``, a tree of names (``edkm.export.tree``) whose leaves say shape, bits where the weight
is clustered, and what differs from the rule. Version 2 held ``NAME.table``, ``NAME.indices`` and
``NAME.scale`` for each clustered weight and other tensors under their own names; version 1 had no
scales.
Boundary: no tensors here; ``edkm.export.parts`` lays them out.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from edkm.dkm.checks import check_range
from edkm.export.tree import flatten, nest

FILE = "model.safetensors"
KEY = "edkm"
VERSION = 3
READS = (1, 2, 3)


@dataclass(frozen=True)
class Entry:
    """One tensor of the model, as the file holds it."""

    shape: tuple[int, ...]
    dtype: str = ""  # of the table, or of the tensor itself; in the JSON: where not the commonest
    bits: int = 0  # of an index; 0: the tensor is not clustered
    clusters: int = 0  # entries of a table; 0: 2**bits
    dim: int = 1  # weights of an entry
    groups: int = 1  # tables, one for each of equal blocks of rows
    scaled: bool = False  # whether each row has a scale

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"dtype is {self.dtype!r}, which torch does not have")
        return found

    def leaf(self, common: str) -> dict[str, Any]:
        """As JSON: the shape, and what is not as usual."""
        given = asdict(self) | {"shape": list(self.shape)}
        usual = {f.name: f.default for f in fields(self)} | {"dtype": common}
        return {k: v for k, v in given.items() if k == "shape" or v != usual[k]}

    @classmethod
    def parse(cls, leaf: dict[str, Any], common: str) -> Entry:
        """``ValueError`` if ``leaf`` is none."""
        if unknown := sorted(set(leaf) - {f.name for f in fields(cls)}):
            raise ValueError(f"unknown fields {unknown}")
        entry = cls(**{"dtype": common, **leaf, "shape": tuple(leaf["shape"])})
        sizes = (*entry.shape, entry.bits, entry.clusters, entry.dim - 1, entry.groups - 1)
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"{leaf} has a size that is no whole number of at least 0")
        check_range("bits", entry.bits, 0, 8, "an index is stored in at most one byte")
        return entry


@dataclass(frozen=True)
class Header:
    """What the metadata of a palettized file says."""

    entries: dict[str, Entry]  # by name in the plain model's state_dict, in the file's order
    tied: dict[str, str]  # name: the name it shares its tensor with
    version: int = VERSION

    @classmethod
    def make(cls, entries: dict[str, Entry], tied: dict[str, str]) -> Header:
        """A header whose entries are in the order of the file."""
        order = flatten(nest({name: entry.leaf("") for name, entry in entries.items()}))
        return cls({name: entries[name] for name in order}, tied)

    def dump(self) -> str:
        """As stored in the file."""
        common = Counter(entry.dtype for entry in self.entries.values()).most_common(1)[0][0]
        tree = nest({name: entry.leaf(common) for name, entry in self.entries.items()})
        found = {"version": VERSION, "dtype": common, "tied": self.tied, "tensors": tree}
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def parse(cls, metadata: dict[str, str] | None, where: str) -> Header:
        """From a file's metadata. ``ValueError`` if it is no palettized file of these versions.

        Of versions 1 and 2 only clustered weights are listed.
        """
        text = (metadata or {}).get(KEY)
        if text is None:
            raise ValueError(
                f"{where} is not a palettized model: its metadata has no {KEY!r}; use a folder "
                "that edkm.train or edkm.export.save wrote, or transformers' from_pretrained"
            )
        try:
            found = json.loads(text)
            version = found["version"]
            if version in READS:
                tied = {str(a): str(b) for a, b in found["tied"].items()}
                return cls(_entries(found, version), tied, version)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where} has a damaged header ({type(error).__name__}: {error}); copy or write "
                "it again"
            ) from error
        raise ValueError(
            f"{where} has format version {version}; this release reads up to {VERSION}: install "
            "the release that wrote it"
        )


def _entries(found: dict[str, Any], version: int) -> dict[str, Entry]:
    if version < 3:
        leaves = {
            n: {"shape": shape, "bits": bits} for n, (bits, shape) in found["weights"].items()
        }
        return {name: Entry.parse(leaf, "") for name, leaf in leaves.items()}
    common = str(found["dtype"])
    return {name: Entry.parse(leaf, common) for name, leaf in flatten(found["tensors"]).items()}
