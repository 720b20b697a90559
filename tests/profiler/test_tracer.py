"""The tracer against plain PyTorch: same results, same errors, same bytes, nothing held."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from edkm.saved import SavedTensorPolicy
from profiler import Tracer, open_run


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8))


def _step(model: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    loss = model(torch.randn(16, 32)).square().mean()
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


def _plain_count(work) -> tuple[int, int]:
    """An independent count: saves and their bytes, by nothing but two hooks."""
    seen: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.numel() * tensor.element_size())
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        work()
    return len(seen), sum(seen)


def _copying() -> torch.autograd.graph.saved_tensors_hooks:
    """Hooks as other people write them: a tuple with a copy inside, and no word about it."""
    return torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: ("copy", tensor.clone()), lambda packed: packed[1]
    )


def _saves(path) -> list[dict]:
    with open_run(path) as run:
        assert run.note is None and run.closed
        return run.table("saves").to_pylist()


@pytest.mark.parametrize(
    ("outer", "actions"),
    [
        (contextlib.nullcontext, {"kept"}),
        (torch.autograd.graph.save_on_cpu, {"kept"}),  # on a CPU it copies nothing
        (_copying, {"copied"}),
        (SavedTensorPolicy, {"kept", "copied"}),
    ],
)
def test_results_are_equal_with_the_tracer_on_and_off(tmp_path, outer, actions) -> None:
    model = _model()
    with outer():
        plain = _step(model)
    with Tracer(tmp_path / "a", model=model), outer():
        inside = _step(model)
    with outer(), Tracer(tmp_path / "b", model=model):
        outside = _step(model)
    for expected, one, other in zip(plain, inside, outside, strict=True):
        assert torch.equal(expected, one) and torch.equal(expected, other)
    for run in ("a", "b"):
        assert {row["action"] for row in _saves(tmp_path / run)} == actions


def test_every_save_is_recorded_with_module_node_and_bytes(tmp_path) -> None:
    model = _model()
    with Tracer(tmp_path / "run", model=model) as tracer, tracer.step("only"):
        _step(model)
    rows = _saves(tmp_path / "run")
    assert (len(rows), sum(r["logical_bytes"] for r in rows)) == _plain_count(lambda: _step(model))
    by_op = {row["op"]: row for row in rows}
    assert by_op["GeluBackward0"]["module"] == "1"
    assert by_op["NativeLayerNormBackward0"]["module"] == "2"
    assert all(row["unpacked_count"] == 1 and row["unpack_ns"] for row in rows)
    weights = [row for row in rows if row["is_param"]]
    assert {row["storage_bytes"] for row in weights} >= {64 * 8 * 4, 64 * 4}


def test_stacks_lead_to_the_line_that_saved(tmp_path) -> None:
    x = torch.ones(4, requires_grad=True)
    with Tracer(tmp_path / "run"):
        x.exp().sum().backward()  # this line
    with open_run(tmp_path / "run") as run:
        (frames,) = run.sql("select frames from saves join stacks using (stack_id)")["frames"]
    file, line, _ = str(frames[0]).rsplit(":", 2)
    assert file == __file__
    assert "# this line" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_policy_saves_are_told_apart_and_host_bytes_fall_to_zero(tmp_path) -> None:
    weight = torch.randn(64, 64, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer:
        with SavedTensorPolicy() as policy:
            loss = (weight.t() @ weight).sum()
        assert tracer.host_bytes == policy.ledger.host_bytes == 64 * 64 * 4
        loss.backward()
        assert tracer.host_bytes == policy.ledger.host_bytes == 0
    first, second = _saves(tmp_path / "run")
    assert (first["action"], second["action"]) == ("copied", "alias")
    assert second["alias_of"] == first["save_id"] and second["hops"] == 1
    with open_run(tmp_path / "run") as run:
        sums = run.sql("select direction, sum(bytes) b from transfers group by 1 order by 1")
    assert sums.to_pylist() == [
        {"direction": "d2h", "b": policy.ledger.d2h_bytes},
        {"direction": "h2d", "b": policy.ledger.h2d_bytes},
    ]


def test_other_hooks_are_seen_through_with_their_traffic(tmp_path) -> None:
    x = torch.randn(64, requires_grad=True)
    with Tracer(tmp_path / "run"), _copying():
        x.exp().sum().backward()
    (row,) = _saves(tmp_path / "run")
    assert (row["action"], row["host_bytes"]) == ("copied", 256)
    with open_run(tmp_path / "run") as run:
        rows = run.sql("select direction, bytes, simulated from transfers").to_pylist()
    assert rows == [
        {"direction": "d2h", "bytes": 256, "simulated": True},
        {"direction": "h2d", "bytes": 256, "simulated": True},
    ]


def test_a_compiled_model_runs_as_without_the_tracer(tmp_path) -> None:
    model = _model()
    plain = _step(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with Tracer(tmp_path / "run", model=model):
        traced = _step(compiled)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


@pytest.mark.parametrize("level", ["summary", "full", "values"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch: sparse and nested tensors are in beta
def test_tensors_without_a_storage_pass_through(tmp_path, level) -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    table = nn.Embedding(8, 4, sparse=True)
    parts = [torch.randn(2, 4), torch.randn(3, 4)]

    def work() -> list[torch.Tensor]:
        weight.grad = table.weight.grad = None
        sparse = torch.sparse.mm(torch.eye(4).to_sparse(), weight).exp().sum()
        ragged = torch.nested.nested_tensor(parts, layout=torch.jagged) @ weight
        looked_up = table(torch.tensor([1, 2, 1])).square().sum()
        (sparse + ragged.exp().values().sum() + looked_up).backward()
        return [weight.grad, table.weight.grad.to_dense()]

    plain = work()
    with Tracer(tmp_path / "run", model=table, level=level) as tracer, tracer.step():
        traced = work()
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))
    with open_run(tmp_path / "run") as run:
        assert run.note is None


def test_a_write_in_place_raises_as_without_the_tracer(tmp_path) -> None:
    def work() -> None:
        x = torch.ones(3, requires_grad=True)
        y = x.exp()
        loss = y.sum()
        y.add_(1)
        loss.backward()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        work()
    with (
        Tracer(tmp_path / "run"),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        work()


def test_the_tracer_keeps_no_tensor_alive(tmp_path) -> None:
    x = torch.randn(1000, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        y = x.exp()
        storage = weakref.ref(y.untyped_storage())
        loss = y.sum()
        del y
        assert tracer.kept_bytes == 4000
        loss.backward()
        del loss
        assert storage() is None and tracer.kept_bytes == 0
    assert not any(gc.is_tracked(o) and o is storage() for o in gc.get_objects() if o is not None)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


@pytest.mark.parametrize("level", [None, "summary", "full"])
def test_nodes_die_when_the_program_drops_them(tmp_path, level) -> None:
    """At once, as untraced: without the garbage collector's help, and though graphs were walked."""
    x = torch.randn(1000, requires_grad=True)
    traced = Tracer(tmp_path / "run", level=level) if level else contextlib.nullcontext()
    with traced:
        y = x.exp()
        loss = _Double.apply(y).sum()
        node = weakref.ref(loss.grad_fn.next_functions[0][0])
        storage = weakref.ref(y.untyped_storage())
        del y
        gc.disable()
        try:
            loss.backward(retain_graph=True)
            assert node() is not None and storage() is not None
            del loss
            assert node() is None and storage() is None
        finally:
            gc.enable()


def test_everything_is_undone_after_an_exception(tmp_path) -> None:
    push = torch._C._autograd._push_saved_tensors_default_hooks
    engine = torch.autograd._engine_run_backward
    call = nn.Module.__call__
    with pytest.raises(KeyError), Tracer(tmp_path / "run"):
        raise KeyError("user")
    assert torch._C._autograd._push_saved_tensors_default_hooks is push
    assert torch.autograd._engine_run_backward is engine
    assert torch.autograd.graph._engine_run_backward is engine
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert nn.Module.__call__ is call
    with open_run(tmp_path / "run") as run:
        assert "KeyError" in str(run.note)


def test_what_runs_while_paused_is_not_recorded(tmp_path) -> None:
    x = torch.ones(4, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        with tracer.paused():
            hidden = x.exp()
            hidden.sum().backward()
        kept = x.sin()
        with tracer.paused():
            kept.sum().backward()
    assert [(row["op"], row["unpacked_count"]) for row in _saves(tmp_path / "run")] == [("", 1)]


def test_an_interrupt_inside_a_finalizer_is_not_lost(tmp_path) -> None:
    class Interrupted:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Tracer(tmp_path / "run"):
        Interrupted()
        time.sleep(10)
    with open_run(tmp_path / "run") as run:
        assert "KeyboardInterrupt" in str(run.note)


def test_handles_outlive_the_tracer(tmp_path) -> None:
    x = torch.randn(8, requires_grad=True)
    with Tracer(tmp_path / "run"):
        loss = x.exp().sum()
    loss.backward()
    assert torch.equal(x.grad, x.detach().exp())


def test_double_backward_and_retained_graphs_count_every_unpack(tmp_path) -> None:
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    with Tracer(tmp_path / "run"):
        assert torch.autograd.gradgradcheck(lambda t: t.exp() * t, (x,))
        loss = x.exp().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert max(row["unpacked_count"] for row in _saves(tmp_path / "run")) >= 2


def test_steps_optimizer_and_memory_are_recorded(tmp_path) -> None:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    with Tracer(tmp_path / "run", model=model, interval=0.001) as tracer:
        for name in ("first", "second"):
            with tracer.step(name):
                _step(model)
                optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert [step.name for step in run.steps] == ["first", "second"]
        assert all(s.start_ns < s.forward_end_ns < s.end_ns for s in run.steps)
        peak = run.sql(
            "select max(param_bytes) p, max(grad_bytes) g, max(optimizer_bytes) o from memory"
        ).to_pylist()[0]
    size = sum(p.nbytes for p in model.parameters())
    assert peak["p"] == size and peak["g"] >= size and peak["o"] >= 2 * size


def test_a_killed_run_opens_with_what_was_finished(tmp_path) -> None:
    script = textwrap.dedent(
        """
        import sys, time, torch
        from profiler import Tracer
        x = torch.ones(8, requires_grad=True)
        with Tracer(sys.argv[1]) as tracer:
            for _ in range(2):
                with tracer.step("done"):
                    x.exp().sum().backward()
            with tracer.step("killed"):
                x.exp().sum()
                print("ready", flush=True)
                time.sleep(60)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with open_run(tmp_path / "run") as run:
        assert not run.closed and "last step 1" in str(run.note)
        assert [step.name for step in run.steps] == ["done", "done"]
        assert run.sql("select count(*) n from saves where step < 2")["n"].to_pylist() == [2]


def test_a_long_step_is_on_disk_when_it_ends(tmp_path) -> None:
    x = torch.ones(8, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.1)
    with Tracer(tmp_path / "run", interval=60) as tracer:
        for cost, known in ((1e9, []), (0.0, [0, 1])):
            tracer.writer.write_seconds = cost
            x.exp().sum().backward()
            optimizer.step()
            with open_run(tmp_path / "run") as run:
                assert [step.step for step in run.steps] == known
                assert run.sql("select count(*) n from saves")["n"].to_pylist() == [len(known)]
