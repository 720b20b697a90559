"""What foreign hooks hold is found where they put it, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from profiler import Tracer, open_run

Rows = list[dict[str, Any]]


def traced(path: Path, work: Callable[[], Any], **settings: Any) -> Rows:
    with Tracer(path, **settings) as tracer, tracer.step():
        work()
    with open_run(path) as run:
        return run.sql("FROM saves ORDER BY save_id").to_pylist()


class ByKey:
    """An offloader that gives autograd a number and keeps the copy itself, as torchtune's does."""

    def __init__(self) -> None:
        self.tracker: dict[int, tuple[Tensor, bool]] = {}

    def pack(self, tensor: Tensor) -> int:
        self.tracker[len(self.tracker)] = (tensor.clone(), True)
        return len(self.tracker) - 1

    def unpack(self, key: int) -> Tensor:
        return self.tracker.pop(key)[0]


def test_a_copy_behind_a_number_is_found(tmp_path: Path) -> None:
    offloader, x = ByKey(), torch.randn(64, requires_grad=True)

    def work() -> None:
        with torch.autograd.graph.saved_tensors_hooks(offloader.pack, offloader.unpack):
            x.exp().sum().backward()

    (row,) = traced(tmp_path / "run", work)
    assert (row["action"], row["host_bytes"], row["unpacked_count"]) == ("copied", 256, 1)


def test_one_host_copy_for_two_saves_is_counted_once(tmp_path: Path) -> None:
    copies: dict[int, Tensor] = {}
    x = torch.randn(4, 4, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        return copies.setdefault(tensor.data_ptr(), tensor.detach().clone())

    def work() -> None:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            (x.sin() + x.cos()).sum().backward()

    first, second = traced(tmp_path / "run", work)
    assert (first["action"], second["action"]) == ("copied", "alias")
    assert second["alias_of"] == first["save_id"]
    assert (first["host_bytes"], second["host_bytes"]) == (64, 0)


def test_the_version_is_seen_when_backward_asks(tmp_path: Path) -> None:
    x = torch.ones(4, requires_grad=True)

    def work() -> None:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            y = x * 2
            z = y.square().sum()
        with torch.no_grad():
            y.mul_(10)
        z.backward()

    rows = {row["op"]: row for row in traced(tmp_path / "run", work)}
    assert (rows["PowBackward0"]["version"], rows["PowBackward0"]["unpack_version"]) == (0, 1)


def test_a_refused_save_says_why(tmp_path: Path) -> None:
    x = torch.ones(4, requires_grad=True)

    def work() -> None:
        y = x * 2
        z = y.square().sum()
        with torch.no_grad():
            y.mul_(10)
        with pytest.raises(RuntimeError, match="inplace"):
            z.backward()

    rows = {row["op"]: row for row in traced(tmp_path / "run", work)}
    assert rows["PowBackward0"]["unpack_version"] == 1
    assert rows["PowBackward0"]["unpacked_count"] == 0


def test_each_save_names_the_node_that_made_it(tmp_path: Path) -> None:
    x = torch.ones(4, requires_grad=True)
    rows = traced(tmp_path / "run", lambda: x.exp().square().sum().backward())
    exp, square = rows
    assert exp["producer_seq"] == exp["node_seq"] == square["producer_seq"]
    assert square["node_seq"] != square["producer_seq"]


def test_contents_are_hashed_at_level_values_only(tmp_path: Path) -> None:
    x = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    (row,) = traced(tmp_path / "a", lambda: x.exp().sum().backward(), level="values")
    assert row["distinct_values"] == 1
    assert row["content_hash"] == row["unpack_hash"] is not None
    (row,) = traced(tmp_path / "b", lambda: x.exp().sum().backward())
    assert row["distinct_values"] is row["content_hash"] is row["unpack_hash"] is None
