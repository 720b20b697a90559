"""`offload` on models: equal gradients, the floor of bytes, what stays, names, refusals."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edkm.saved import Ledger, SavedHandle, offload
from edkm.saved.replay import KINDS


def floor_of(model: nn.Module, step: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that autograd saves, parameters and buffers left out.

    Counted independently, by plain hooks that keep every storage alive.
    """
    resident = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in resident and storage.nbytes() >= 1024:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        step()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rebuild", [("view",), KINDS, ()])
def test_gradients_are_equal_and_bytes_are_the_floor(
    small: SimpleNamespace, dtype: torch.dtype, rebuild: tuple[str, ...]
) -> None:
    model, data = small.model(dtype), small.data(dtype)
    wanted = small.grads(model, lambda m: m(data).float().square().mean())
    floor = floor_of(model, lambda: model(data).float().square().mean())
    model.zero_grad()
    with offload(model, rebuild=rebuild) as offloaded:
        loss = model(data).float().square().mean()
    held = offloaded.ledger.host_bytes
    loss.backward()
    small.assert_equal([p.grad for p in model.parameters()], wanted)
    assert offloaded.ledger.host_bytes == 0
    if rebuild == ("view",):
        assert held == floor
    elif rebuild == KINDS and dtype is torch.bfloat16:
        assert held < floor
        assert offloaded.ledger.rebuilt["upcast"].bytes_spared > 0
        assert offloaded.ledger.rebuilt["upcast"].rebuild_ns > 0
        assert offloaded.ledger.rebuilt["downcast"].saves > 0


def test_a_drop_in_for_save_on_cpu() -> None:
    x = torch.randn(64, 64, requires_grad=True)
    weight = nn.Parameter(torch.randn(64, 64))
    with offload(pin_memory=False) as offloaded:
        y = (x @ weight.t()).sigmoid()
        loss = (y * y.t()).sum()
    assert offloaded.ledger.host_bytes == 2 * 64 * 64 * 4  # x and y: the parameter stayed
    loss.backward()


def test_parameters_and_buffers_stay_in_whatever_view() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 64))
            self.register_buffer("table", torch.randn(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.weight.t() @ self.weight.detach()[:, :32] @ self.weight.data[:32]
            return x * self.table.t()[3] * self.table.detach() @ self.table[::2].t()

    model = Odd()
    handles: list[SavedHandle] = []
    offloaded = offload(model, min_bytes=0)
    pack = offloaded.pack
    offloaded.pack = lambda t: handles.append(pack(t)) or handles[-1]  # type: ignore[assignment,method-assign,func-returns-value]
    with offloaded:
        loss = model(torch.randn(64, 64)).sum()
    copied = [h for h in handles if h.host_bytes]
    assert len(copied) == 1  # the input alone; nothing else here is needed but weights
    assert all(h.module == "(root)" for h in copied)
    loss.backward()


def test_names_choose_what_leaves(small: SimpleNamespace) -> None:
    model, data = small.model(), small.data()
    wanted = small.grads(model, lambda m: m(data).square().mean())

    def held(**settings: object) -> int:
        with offload(model, **settings) as offloaded:  # type: ignore[arg-type]
            loss = model(data).square().mean()
        held = offloaded.ledger.host_bytes
        model.zero_grad()
        loss.backward()
        small.assert_equal([p.grad for p in model.parameters()], wanted)
        return held

    whole, mlps, rest = held(), held(include=["*.mlp"]), held(exclude=["*.mlp"])
    assert 0 < mlps < whole and 0 < rest < whole
    assert held(include=["1"], exclude=["1.mlp"]) < rest
    assert held(exclude=["(root)"]) == 2 * 32 * 64 * 4  # the loss is computed outside the model


def test_patterns_that_match_nothing_are_refused(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"'head': no module of Sequential has such a name.*0\.b"):
        offload(small.model(), exclude=["head"])
    with pytest.raises(ValueError, match="known only with a model"):
        offload(include=["layers"])
    with pytest.raises(ValueError, match=r"rebuild=\['magic'\]"):
        offload(rebuild=("magic",))
    with pytest.raises(ValueError, match="host_budget=-1"):
        offload(host_budget=-1)
    with pytest.raises(ValueError, match="prefetch=-1"):
        offload(prefetch=-1)


def test_a_write_names_the_operation_and_the_module() -> None:
    class Careless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.sigmoid()
            out = y * 2
            y.detach().mul_(3)
            return out

    model = nn.Sequential(nn.Linear(64, 64), Careless())
    with offload(model, min_bytes=0):
        loss = model(torch.randn(4, 64)).sum()
    with pytest.raises(RuntimeError, match=r"by SigmoidBackward0 in module '1' was written to"):
        loss.backward()


def test_hooks_go_when_the_context_ends_even_by_an_exception() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    model = nn.Sequential(nn.Linear(8, 8), Failing())
    offloaded = offload(model)
    with pytest.raises(ZeroDivisionError), offloaded:
        model(torch.randn(2, 8))
    assert offloaded._names.running == []
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_frozen_bases_with_low_rank_adapters(small: SimpleNamespace) -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(64, 64).requires_grad_(False)
            self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 64, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.GELU(), Adapted())
    data = torch.randn(16, 64)
    wanted = small.grads(model, lambda m: m(data).square().sum())
    offloaded = offload(model, min_bytes=0)

    def step(m: nn.Module) -> Tensor:
        with offloaded:
            return m(data).square().sum()

    small.assert_equal(small.grads(model, step), wanted)
    assert offloaded.ledger.d2h_bytes == 4 * 16 * (64 * 4 + 4 * 2)  # inputs, outputs, ranks


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_inside_and_outside(small: SimpleNamespace, reentrant: bool) -> None:
    model, data = small.model(), small.data().requires_grad_()
    wanted = small.grads(model, lambda m: m(data).square().mean())
    offloaded = offload(model)

    def inside(m: nn.Module) -> Tensor:
        with offloaded:
            x = data
            for block in m:  # type: ignore[attr-defined]
                x = checkpoint(block, x, use_reentrant=reentrant)
            return x.square().mean()

    def outside(m: nn.Module) -> Tensor:
        def forward(x: Tensor) -> Tensor:
            with offloaded:
                return m(x)

        return checkpoint(forward, data, use_reentrant=reentrant).square().mean()

    small.assert_equal(small.grads(model, inside), wanted)
    small.assert_equal(small.grads(model, outside), wanted)
    gc.collect()
    assert offloaded.ledger.host_bytes == 0


def test_autocast(small: SimpleNamespace) -> None:
    model, data = small.model(), small.data()
    offloaded = offload(model)

    def step(m: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m(data).float().square().mean()

    def off(m: nn.Module) -> Tensor:
        with offloaded:
            return step(m)

    small.assert_equal(small.grads(model, off), small.grads(model, step))
    assert offloaded.ledger.host_bytes == 0


def test_many_steps_with_an_optimizer_leave_nothing_behind(small: SimpleNamespace) -> None:
    first, second = small.model(), small.model()
    data = small.data()
    offloaded = offload(first)
    for model in (first, second):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(5):
            if model is first:
                with offloaded:
                    loss = model(data).square().mean()
            else:
                loss = model(data).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert offloaded.ledger.host_bytes == 0
    assert offloaded._registry is not None and not [
        e for es in offloaded._registry._by_storage.values() for e in es if e.alive
    ]


def test_the_device_keeps_nothing_that_left(small: SimpleNamespace) -> None:
    model, data = small.model(), small.data()
    watches = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        watches.append(weakref.ref(output.untyped_storage()))

    for block in model:  # type: ignore[attr-defined]
        block.mlp[1].register_forward_hook(watch)
        block.attention.q.register_forward_hook(watch)
    with offload(model):
        loss = model(data).square().mean()
    assert len(watches) == 4 and all(w() is None for w in watches)
    loss.backward()


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("hold", [False, True])
def test_bytes_come_back_once_where_held_fetched_ahead_or_not(prefetch: int, hold: bool) -> None:
    """The order of fetching is the same on any device; here the copies are made at once."""
    offloaded = offload(hold=hold)
    offloaded.memory.transport.prefetch = prefetch
    torch.manual_seed(0)
    x = torch.randn(64, 64, requires_grad=True)

    def forward() -> Tensor:
        y = x
        for _ in range(6):
            y = (y @ y).tanh()
        return y.sum()

    wanted = torch.autograd.grad(forward(), x)[0]
    with offloaded:
        loss = forward()
    moved = offloaded.ledger.d2h_bytes
    assert torch.equal(torch.autograd.grad(loss, x)[0], wanted)
    assert (offloaded.ledger.h2d_bytes == moved) is hold  # tanh and the product save the same
    assert offloaded.ledger.h2d_bytes <= 2 * moved
    assert offloaded.ledger.host_bytes == 0


def test_a_ledger_may_be_shared() -> None:
    ledger = Ledger()
    x = torch.randn(64, 64, requires_grad=True)
    losses = []
    for _ in range(2):
        with offload(ledger=ledger):
            losses.append(x.sin().sum())
    assert ledger.host_bytes == 2 * x.nbytes
    del losses
    assert ledger.host_bytes == 0


def test_a_copy_of_the_model_is_another_model(small: SimpleNamespace) -> None:
    model = small.model()
    twin = copy.deepcopy(model)
    with offload(model) as offloaded:
        loss = twin(small.data()).square().mean()
    loss.backward()
    assert offloaded.ledger.d2h_bytes > 0


def test_what_is_held_on_the_device_goes_with_its_last_user() -> None:
    x = torch.randn(64, 64, requires_grad=True)
    rebuilt: list[weakref.ref[torch.UntypedStorage]] = []
    offloaded = offload()
    unpack = offloaded.unpack

    def watched(handle: SavedHandle) -> Tensor:
        tensor = unpack(handle)
        rebuilt.append(weakref.ref(tensor.untyped_storage()))
        return tensor

    offloaded.unpack = watched  # type: ignore[method-assign]
    with offloaded:
        y = x.tanh()
        loss = y.square().sum()
        del y
    loss.backward()
    del loss
    assert len(rebuilt) == 2 and all(r() is None for r in rebuilt)


def test_a_default_device_does_not_move_the_host_copy() -> None:
    x = torch.randn(64, 64, requires_grad=True)
    with torch.device("meta"), offload(uniquify=True) as offloaded:
        loss = x.sigmoid().square().sum()
    assert offloaded.ledger.host_bytes == x.nbytes
    with torch.device("meta"):
        loss.backward()
    wanted = torch.autograd.grad(x.sigmoid().square().sum(), x)[0]
    assert x.grad is not None and torch.equal(x.grad, wanted)


def test_two_threads_through_one_context(small: SimpleNamespace) -> None:
    models = [small.model(), small.model()]
    both = nn.ModuleList(models)
    offloaded = offload(both, exclude=["1.*"])
    held: dict[int, set[str | None]] = {0: set(), 1: set()}
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        for _ in range(5):
            barrier.wait()
            with offloaded:
                loss = models[number](small.data()).square().mean()
                held[number].update(offloaded._names.running)
            loss.backward()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert held == {0: set(), 1: set()} and offloaded.ledger.host_bytes == 0
    assert all(not m._forward_hooks for m in both.modules())
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)
