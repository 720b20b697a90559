"""A PyTorch memory snapshot as a run folder, so that reports and exports work on it.

Contract: every allocation that the snapshot tells of becomes a storage with its birth and death,
also those that were alive before recording began; a memory sample follows the events. A snapshot
knows neither modules nor saves: a storage's `module` is the line that allocated it.
Boundary: reads plain containers (`plain_pickle`) and believes no type it has not checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profiler.analyses.common import source_line
from profiler.events import MemorySample, Step, Storage
from profiler.imports.plain_pickle import read_plain_pickle
from profiler.store import RunWriter

_CATEGORIES = {"param", "grad", "optimizer", "saved", "temp", "host"}
_SAMPLES = 20_000
_MOST = (1 << 63) - 1


def import_snapshot(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Write the run folder `out` from a snapshot file and return it.

    Raises:
        ValueError: the file is no snapshot, or the folder cannot be used.
    """
    devices = _devices(read_plain_pickle(source), str(source))
    info = {"command": "profiler import", "level": "snapshot", "source": Path(source).name}
    with RunWriter(out, info, force=force) as writer:
        serial = 0
        for device in devices:
            serial = device.write(writer, serial)
        starts = [device.start for device in devices if device.events]
        if starts:
            ends = [device.end for device in devices if device.events]
            peak = max(device.peak for device in devices)
            writer.add(Step(step=0, start_ns=min(starts), end_ns=max(ends), peak_bytes=peak))
    return Path(out)


@dataclass(slots=True)
class _Event:
    """One line of a device's trace, checked."""

    action: str
    address: int
    size: int
    time_ns: int
    frames: list[str]
    category: str


@dataclass(slots=True)
class _Device:
    """What one device's allocator did, and what it held at the end."""

    name: str
    events: list[_Event]
    held: dict[int, tuple[int, list[str]]] = field(default_factory=dict)  # address -> size, frames
    reserved: int = 0  # at the end
    peak: int = 0

    @property
    def start(self) -> int:
        return self.events[0].time_ns

    @property
    def end(self) -> int:
        return self.events[-1].time_ns

    def write(self, writer: RunWriter, serial: int) -> int:
        """Add storages and samples; the last serial number given."""
        storages = self._storages(serial)
        for row in storages:
            writer.add(row)
        for sample in self._samples(storages):
            writer.add(sample)
        return serial + len(storages)

    def _storages(self, serial: int) -> list[Storage]:
        alive: dict[int, Storage] = {}
        rows: list[Storage] = []
        start = self.start if self.events else 0

        def born(address: int, size: int, when: int, frames: list[str], category: str) -> Storage:
            row = Storage(
                storage_id=serial + len(rows) + 1, bytes=size, device=self.name, born_ns=when,
                category=category, module=source_line(frames),
            )  # fmt: skip
            rows.append(row)
            alive[address] = row
            return row

        for event in self.events:
            if event.action == "alloc":
                born(event.address, event.size, event.time_ns, event.frames, event.category)
            elif event.action == "free_completed":
                row = alive.pop(event.address, None)
                if row is None:  # it was there before recording began
                    row = born(event.address, event.size, start, [], event.category)
                    del alive[event.address]
                row.died_ns = event.time_ns
        for address, (size, frames) in self.held.items():
            if address not in alive:
                born(address, size, start, frames, "temp")
        return rows

    def _samples(self, storages: list[Storage]) -> list[MemorySample]:
        """The bytes alive after each change; the fullest of neighbours where there are many."""
        changes = [(row.born_ns, 1, row) for row in storages]
        changes += [(row.died_ns, -1, row) for row in storages if row.died_ns is not None]
        changes.sort(key=lambda change: (change[0], change[1]))
        now = dict.fromkeys(_CATEGORIES, 0)
        samples: list[MemorySample] = []
        width = max(1, len(changes) // _SAMPLES)
        for number, (when, sign, row) in enumerate(changes):
            now[row.category] += sign * row.bytes
            total = sum(now.values())
            self.peak = max(self.peak, total)
            sample = MemorySample(time_ns=when, device=self.name, allocated_bytes=total)
            sample.reserved_bytes = max(total, self.reserved)
            for name, size in now.items():
                setattr(sample, f"{name}_bytes", size)
            if number % width == 0 or not samples:
                samples.append(sample)
            elif total >= samples[-1].allocated_bytes:
                samples[-1] = sample
        return samples


def _devices(whole: Any, name: str) -> list[_Device]:
    if not isinstance(whole, dict) or not isinstance(whole.get("device_traces"), list):
        raise ValueError(
            f"snapshot: got {name!r}, which holds no 'device_traces'; give a file that "
            "torch.cuda.memory._dump_snapshot wrote, with history recorded"
        )
    found = []
    for number, trace in enumerate(whole["device_traces"]):
        events = sorted(_events(trace), key=lambda event: event.time_ns)
        found.append(_Device(f"cuda:{number}", events))
    for segment in _dicts(whole.get("segments")):
        number = _number(segment.get("device"))
        if number < len(found):
            _add_segment(found[number], segment)
    return found


def _add_segment(device: _Device, segment: dict[str, Any]) -> None:
    device.reserved += _number(segment.get("total_size"))
    address = _number(segment.get("address"))
    for block in _dicts(segment.get("blocks")):
        size = _number(block.get("size"))
        at = _number(block.get("address"), address)
        address = at + size
        if block.get("state") == "active_allocated":
            asked = _number(block.get("requested_size"), size)
            device.held[at] = (asked, _frames(block.get("frames")))


def _events(trace: Any) -> Iterator[_Event]:
    for row in _dicts(trace):
        action, category = row.get("action"), row.get("category")
        if action in ("alloc", "free_completed"):
            known = isinstance(category, str) and category in _CATEGORIES
            yield _Event(
                action=str(action),
                address=_number(row.get("addr")),
                size=_number(row.get("size")),
                time_ns=_number(row.get("time_us")) * 1000 % _MOST,
                frames=_frames(row.get("frames")),
                category=str(category) if known else "temp",
            )


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _number(value: Any, default: int = 0) -> int:
    """A whole number that a column can hold, else the default."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
    return value if good else default


def _frames(value: Any) -> list[str]:
    made = []
    for frame in _dicts(value):
        file, line, name = (frame.get(key) for key in ("filename", "line", "name"))
        if isinstance(file, str):
            function = name[:200] if isinstance(name, str) else ""
            made.append(f"{file[:500]}:{_number(line)}:{function}")
    return made
