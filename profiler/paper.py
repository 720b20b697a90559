"""The eDKM paper's Table 2 (arXiv 2309.00964): the figures that a measured ablation is set beside.

Contract: constants only. Host memory is exact to the printed megabyte; its megabytes are 2**20
bytes (six maps of 256 MiB and two weights of 32 MiB make the first row's 1600). The runtimes are
approximate, for 8 A100 GPUs, and comparable with no other machine.
Boundary: nothing here is measured by us, and nothing here may steer a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

SOURCE = "eDKM paper, Table 2 (arXiv 2309.00964)"
SETTING = "one 4096 x 4096 bfloat16 matrix, 3 bits, 1 iteration, 8 learners"
RUNTIME_NOTE = "approximate, 8 x A100; not comparable with another machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row of Table 2."""

    name: str
    host_mib: int  # printed as MB in the paper
    reduction: float  # as printed: against the row "none"
    approximate_runtime_s: float


TABLE_2: Mapping[str, PaperRow] = MappingProxyType(
    {
        row.name: row
        for row in (
            PaperRow(name="none", host_mib=1600, reduction=1.0, approximate_runtime_s=8.67),
            PaperRow(name="M", host_mib=544, reduction=2.9, approximate_runtime_s=8.97),
            PaperRow(name="M+S", host_mib=68, reduction=23.5, approximate_runtime_s=9.5),
            PaperRow(name="M+U", host_mib=97, reduction=16.4, approximate_runtime_s=15.9),
            PaperRow(name="M+U+S", host_mib=12, reduction=129.9, approximate_runtime_s=14.9),
        )
    }
)

_SETTING: Mapping[str, object] = MappingProxyType(
    {"dtype": "bfloat16", "clusters": 8, "iterations": 1, "learners": 8}
)


def differences(ablation: Mapping[str, Any]) -> list[str]:
    """How the setting of `ablation` (ablation.json) differs from the paper's; empty: comparable."""
    found = [
        f"{key} {ablation.get(key)} instead of {expected}"
        for key, expected in _SETTING.items()
        if ablation.get(key) != expected
    ]
    shapes = _shapes(ablation)
    if shapes != [[4096, 4096]]:
        found.append(f"{_describe(shapes)} instead of one 4096 x 4096")
    return found


def _shapes(ablation: Mapping[str, Any]) -> list[list[int]]:
    matrices: Sequence[Mapping[str, Any]] = ablation.get("matrices") or ()
    if matrices:
        return [list(matrix["shape"]) for matrix in matrices]
    return [list(ablation["shape"])] if ablation.get("shape") else []


def _describe(shapes: list[list[int]]) -> str:
    if len(shapes) == 1:
        return "matrix " + " x ".join(str(size) for size in shapes[0])
    return f"{len(shapes)} matrices"
