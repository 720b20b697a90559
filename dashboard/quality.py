"""Measured quality as the dashboard sees it: result files found, read, and explained.

Contract: reads only files inside the given folder, symbolic links included; a file that cannot be
read becomes a problem in words. Three kinds are known: `comparison.json` (peers at their own bits),
`metrics.json` of a training run, and `train_*.json` of the project's benchmark.
Boundary: nothing is computed; what a file does not say stays None.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edkm import method_names

PATTERNS = ("comparison*.json", "compare*.json", "metrics*.json", "train_*.json")
MOST_BYTES = 8 * 2**20  # of one file
DENSE = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One method at one setting. Perplexity is on held-out text: lower is better."""

    method: str
    bits: float | None = None
    group_size: int | None = None
    size_bytes: int | None = None  # on disk
    bits_per_weight: float | None = None
    ppl: float | None = None
    ppl_dense: float | None = None  # of the dense model that it was made from
    seconds: float | None = None
    peak_bytes: int | None = None
    seed: int | None = None
    status: str = "done"
    error: str = ""
    tasks: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method as readers know it."""
        return method_names.title(self.method)

    @property
    def bits_text(self) -> str:
        """Its bits as tables say them."""
        return method_names.bits_text(self.method, self.bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The rows of one file (one model of it), or why there are none."""

    name: str
    rows: tuple[Quality, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def find_results(root: Path) -> list[Results]:
    """Every result directly in `root` or in a folder of it, by name."""
    found: list[Results] = []
    for path in _files(root):
        found += read_results(path, path.relative_to(root).as_posix())
    return found


def read_results(path: Path, name: str) -> list[Results]:
    """The results of one file, under that name; one with a problem where it cannot be read."""
    try:
        return _read(name, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        return [Results(name=name, problem=problem[:300])]


def _files(root: Path) -> Iterator[Path]:
    inside = root.resolve()
    seen = set()
    for pattern in PATTERNS:
        for path in sorted([*root.glob(pattern), *root.glob(f"*/{pattern}")]):
            real = path.resolve()
            if real in seen or not real.is_relative_to(inside) or not real.is_file():
                continue
            seen.add(real)
            if real.stat().st_size <= MOST_BYTES:
                yield path


def _read(name: str, raw: Mapping[str, Any]) -> list[Results]:
    if not isinstance(raw, dict):
        raise ValueError(f"got a JSON {type(raw).__name__}, must be an object")
    if raw.get("benchmark") == "train":
        return _benchmark(name, raw)
    if "perplexity" in raw and "config" in raw:
        return [_training(name, raw)]
    if isinstance(raw.get("rows"), list):
        return [_comparison(name, raw)]
    raise ValueError("neither rows of a comparison nor metrics of a training run")


def _comparison(name: str, raw: Mapping[str, Any]) -> Results:
    rows = []
    for row in raw["rows"]:
        tasks = row.get("tasks")
        rows.append(
            Quality(
                method=str(row["method"]),
                bits=_number(row.get("bits")),
                group_size=_whole(row.get("group_size")),
                size_bytes=_whole(row.get("size_bytes")),
                bits_per_weight=_number(row.get("bits_per_weight")),
                ppl=_number(row.get("ppl")),
                ppl_dense=_number(row.get("ppl_dense")),
                seconds=_number(row.get("seconds")),
                peak_bytes=_whole(row.get("peak_bytes")),
                seed=_whole(row.get("seed")),
                status=str(row.get("status") or "done"),
                error=str(row.get("error") or ""),
                tasks={str(k): float(v) for k, v in tasks.items() if _number(v) is not None}
                if isinstance(tasks, dict)
                else {},
            )
        )
    settings = raw.get("settings")
    return Results(
        name=name, rows=tuple(rows), settings=settings if isinstance(settings, dict) else {}
    )


def _benchmark(name: str, raw: Mapping[str, Any]) -> list[Results]:
    """The project's own benchmark of tuning: clustered rows, and the dense model beside each."""
    models: dict[str, list[Quality]] = {}
    for row in raw["rows"]:
        rows = models.setdefault(str(row["model"]), [])
        dense, tuned = _number(row.get("perplexity_dense")), row.get("perplexity_dense_tuned")
        seed = _whole(row.get("seed"))
        rows.append(
            Quality(
                method="edkm", bits=_number(row["bits"]), seed=seed, ppl_dense=dense,
                ppl=_number(row["perplexity_after_hard"]), size_bytes=_whole(row["file_bytes"]),
                seconds=_number(row.get("tuning_s")),
            )
        )  # fmt: skip
        rows.append(
            Quality(
                method="kmeans", bits=_number(row["bits"]), seed=seed, ppl_dense=dense,
                ppl=_number(row["perplexity_before"]), size_bytes=_whole(row["file_bytes"]),
            )
        )  # fmt: skip
        if tuned is not None:
            rows.append(
                Quality(
                    method=DENSE, seed=seed, ppl=_number(tuned), ppl_dense=dense,
                    size_bytes=_whole(row.get("dense_file_bytes")),
                    seconds=_number(row.get("dense_tuning_s")),
                )
            )  # fmt: skip
    settings = raw.get("arguments")
    return [
        Results(
            name=f"{model} ({name})",
            rows=tuple(rows),
            settings=settings if isinstance(settings, dict) else {},
        )
        for model, rows in models.items()
    ]


def _training(name: str, raw: Mapping[str, Any]) -> Results:
    """metrics.json of `python -m edkm.train`."""
    found, config = raw["perplexity"], raw["config"]
    plain = not raw.get("clustering")
    row = Quality(
        method=DENSE if plain else "edkm",
        bits=None if plain else _number(config.get("bits")),
        size_bytes=_whole(raw.get("file_bytes")),
        ppl=_number(found.get("after" if plain else "after_hard")),
        ppl_dense=_number(found.get("dense")),
        seconds=_number(raw.get("tuning_s")),
        seed=_whole(config.get("seed")),
    )
    known = ("bits", "learning_rate", "max_steps", "sequence", "seed")
    return Results(name=name, rows=(row,), settings={key: config.get(key) for key in known})


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def _whole(value: object) -> int | None:
    found = _number(value)
    return None if found is None else int(found)
