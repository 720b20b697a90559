"""Which phase a save is told to be of, above all those that happen while backward runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from profiler import Tracer, open_run


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8))


def _saves(path: Path) -> list[dict]:
    with open_run(path) as run:
        return run.table("saves").to_pylist()


def test_recomputation_of_a_checkpoint_is_a_phase_of_its_own(tmp_path) -> None:
    x = torch.randn(8, requires_grad=True)
    with Tracer(tmp_path / "run"):
        checkpoint(lambda t: t.exp().sin(), x, use_reentrant=False).sum().backward()
    phases = {(row["phase"], row["action"]) for row in _saves(tmp_path / "run")}
    assert ("forward", "rebuilt") in phases
    assert any(phase == "recompute" for phase, _ in phases)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_saves_know_their_node(tmp_path, reentrant: bool) -> None:
    model = _model()
    x = torch.randn(16, 32, requires_grad=True)
    with Tracer(tmp_path / "run", model=model) as tracer, tracer.step():
        checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
    again = [row for row in _saves(tmp_path / "run") if row["phase"] == "recompute"]
    ops = {(row["module"], row["op"].removesuffix("Backward0")) for row in again}
    assert ops >= {("0", "Addmm"), ("1", "Gelu"), ("2", "NativeLayerNorm"), ("3", "Addmm")}
    assert all(row["op"] for row in again)


def _slope(through: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(through(x).sum(), x, create_graph=True)
    return slope


def _cubed(x: Tensor) -> Tensor:
    return x * x * x


def test_what_a_backward_saves_to_be_differentiated_again_is_of_backward(tmp_path) -> None:
    x = torch.randn(5, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        _slope(_cubed, x).sum().backward()
    assert torch.allclose(x.grad, 6 * x)
    rows = _saves(tmp_path / "run")
    assert {row["phase"] for row in rows} == {"forward", "backward"}
    assert all(row["op"] == "MulBackward0" for row in rows if row["unpacked_count"])


def test_inside_a_module_that_differentiates_in_its_forward_too(tmp_path) -> None:
    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _slope(_cubed, x)

    x = torch.randn(5, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        Slope()(x).sum().backward()
    assert {row["phase"] for row in _saves(tmp_path / "run")} == {"forward", "backward"}


@pytest.mark.parametrize("through", [_cubed, _model()], ids=["function", "module"])
def test_a_recomputation_inside_such_a_backward_is_told_from_it(tmp_path, through) -> None:
    x = torch.randn(16, 32, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        _slope(lambda t: checkpoint(through, t, use_reentrant=False), x).sum().backward()
    with open_run(tmp_path / "run") as run:
        rows = run.sql("select phase, frames from saves join stacks using (stack_id)").to_pylist()
    phases = {"forward": [], "recompute": [], "backward": []}
    for row in rows:
        phases[row["phase"]].append(any("recompute_fn" in frame for frame in row["frames"]))
    assert all(phases["recompute"]) and phases["recompute"]
    assert not any(phases["forward"] + phases["backward"]) and phases["backward"]
