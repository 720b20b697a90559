"""A typed, forgiving reading of ablation.json, for every report and for the dashboard.

Contract: unknown keys are ignored, missing optional ones get defaults; what no picture can do
without (the rows, their names and host bytes) is checked, and a ValueError says what is wrong.
Boundary: no file is opened here, and no figure is computed that the run did not record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from profiler import paper
from profiler.reports.theme import in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration of the ablation, as recorded."""

    name: str
    host_bytes: int
    marshal: bool = False
    uniquify: bool = False
    shard: bool = False
    fused: bool = False
    saved_tensors: int | None = None
    small_tensors: int | None = None
    logical_bytes: int | None = None
    peer_bytes: int = 0
    device_bytes: int | None = None
    d2h_bytes: int | None = None
    h2d_bytes: int | None = None
    peak_bytes: int | None = None
    peak_rss_bytes: int | None = None
    forward_s: float | None = None
    backward_s: float | None = None
    reduction: float | None = None
    max_hops: int | None = None
    grad_rel_error: float | None = None
    hops: Mapping[int, int] = field(default_factory=dict)  # hops -> number of saved tensors
    finders: Mapping[str, int] = field(default_factory=dict)  # finder -> number of tensors

    @property
    def paper(self) -> paper.PaperRow | None:
        """The paper's row of the same name, if it has one."""
        return paper.TABLE_2.get(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationView:
    """The rows of one ablation in the one order, and what they were measured on."""

    rows: tuple[Row, ...]
    raw: Mapping[str, Any]

    @property
    def differences(self) -> list[str]:
        """How the setting differs from the paper's; empty when the bytes are comparable."""
        return paper.differences(self.raw)

    @property
    def title(self) -> str:
        """E.g. "attn0 q_proj, 4096 x 4096 bfloat16, 3 bits, 1 iteration, 8 learners"."""
        raw, matrices = self.raw, self.raw.get("matrices") or ()
        parts = [f"{raw.get('layer', '')} {raw.get('matrix', '')}".strip()]
        shape = " x ".join(str(size) for size in raw.get("shape") or ())
        what = shape or (f"{len(matrices)} matrices" if matrices else "")
        parts.append(f"{what} {raw.get('dtype', '')}".strip())
        parts += [
            count(raw[key], noun)
            for key, noun in (("bits", "bit"), ("iterations", "iteration"), ("learners", "learner"))
            if key in raw
        ]
        return ", ".join(part for part in parts if part)

    @property
    def simulated(self) -> list[str]:
        """One sentence for each thing that this run simulates."""
        notes = []
        if self.raw.get("simulated_host"):
            notes.append("Simulated host: device and host are both CPU memory; no bus was crossed.")
        if self.raw.get("simulated_learners"):
            notes.append("Simulated learners: one process held every learner's shard (peer bytes).")
        return notes

    def row(self, name: str) -> Row | None:
        """The row called `name`, or None where the run did not record it."""
        return next((row for row in self.rows if row.name == name), None)


def count(number: int, noun: str) -> str:
    """E.g. "1 bit", "3 bits"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def view(ablation: Mapping[str, Any]) -> AblationView:
    """Reads the mapping of ablation.json.

    Raises:
        ValueError: there are no rows, a row has no name or host bytes, or a name occurs twice.
    """
    raw_rows = ablation.get("rows")
    if not isinstance(raw_rows, list) or not raw_rows:
        raise ValueError(
            "ablation.json: rows is missing or empty; it needs one entry per configuration. "
            "Record the run again."
        )
    rows = {row.name: row for row in map(_row, raw_rows)}
    if len(rows) != len(raw_rows):
        raise ValueError("ablation.json: a row name occurs twice; names are the key of a row.")
    return AblationView(rows=tuple(rows[name] for name in in_order(rows)), raw=ablation)


def _row(raw: Mapping[str, Any]) -> Row:
    if not isinstance(raw, Mapping) or "name" not in raw or "host_bytes" not in raw:
        raise ValueError(
            f"ablation.json: row {raw!r:.80} lacks name or host_bytes; both are required. "
            "Record the run again."
        )
    known = {entry.name for entry in fields(Row)}
    values = {key: value for key, value in raw.items() if key in known and value is not None}
    hops = values.pop("hops", {})
    return Row(**values, hops={int(key): int(value) for key, value in sorted(hops.items())})
