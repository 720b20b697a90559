"""When host memory is freed, and what may be done with a graph in between."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edkm.saved import Ledger, SavedHandle, SavedTensorPolicy
from edkm.saved import host as host_module

LARGE = 64 * 64 * 4


def chain(x: Tensor, steps: int = 5) -> Tensor:
    for _ in range(steps):
        x = (x @ x.t()).tanh()
    return x.sum()


def leaf() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 64, requires_grad=True)


def expected(steps: int = 5) -> Tensor:
    x = leaf()
    chain(x, steps).backward()
    assert x.grad is not None
    return x.grad


def test_buffers_are_freed_one_by_one_in_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[host_module.HostBuffer] = weakref.WeakSet()
    make = host_module.HostBuffer.__init__

    def watched(self: host_module.HostBuffer, *args: object, **settings: object) -> None:
        make(self, *args, **settings)  # type: ignore[arg-type]
        alive.add(self)

    monkeypatch.setattr(host_module.HostBuffer, "__init__", watched)
    seen: list[tuple[int, int]] = []

    class Watching(SavedTensorPolicy):
        def unpack(self, handle: SavedHandle) -> Tensor:
            seen.append((self.ledger.host_bytes, len(alive)))
            return super().unpack(handle)

    x = leaf()
    with Watching() as policy:
        loss = chain(x)
    assert len(alive) == 6 and policy.ledger.host_bytes == 6 * LARGE
    loss.backward()
    assert x.grad is not None and torch.equal(x.grad, expected())
    assert seen == sorted(seen, reverse=True) and len({held for held, _ in seen}) >= 5
    assert len(alive) == 0 and policy.ledger.host_bytes == 0
    assert policy.ledger.host_peak_bytes == 6 * LARGE


def test_a_graph_dropped_without_backward_frees_everything() -> None:
    with SavedTensorPolicy(shard=3) as policy:
        loss = chain(leaf())
    assert policy.ledger.host_bytes > 0 and policy.ledger.peer_bytes > 0
    del loss
    assert policy.ledger.host_bytes == policy.ledger.peer_bytes == 0


def test_a_partial_backward_frees_when_the_graph_goes() -> None:
    x = leaf()
    with SavedTensorPolicy() as policy:
        middle = (x @ x.t()).tanh()
        loss = (middle @ middle).sum()
    (grad,) = torch.autograd.grad(loss, middle)
    assert grad is not None
    assert policy.ledger.host_bytes > 0  # the first half was not used
    del loss, middle, grad
    assert policy.ledger.host_bytes == 0


def test_the_device_storage_dies_after_forward() -> None:
    x = leaf()
    with SavedTensorPolicy():
        y = x * 2
        watch = weakref.ref(y.untyped_storage())
        loss = (y.t() @ y).sigmoid().sum()
        del y
    assert watch() is None
    loss.backward()


def test_retained_graphs_give_the_same_again_and_again() -> None:
    x = leaf()
    with SavedTensorPolicy(uniquify=True, shard=2) as policy:
        loss = chain(x)
    held = policy.ledger.host_bytes
    for _ in range(3):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(grad, expected())
        assert policy.ledger.host_bytes == held
    del loss
    assert policy.ledger.host_bytes == 0


@pytest.mark.parametrize("inside", [False, True])
def test_double_backward(inside: bool) -> None:
    def second(policy: SavedTensorPolicy | None) -> Tensor:
        x = leaf()

        def differentiate(loss: Tensor) -> Tensor:
            (first,) = torch.autograd.grad(loss, x, create_graph=True)
            return first.square().sum()

        if policy is None:
            norm = differentiate(chain(x, 2))
        elif inside:
            with policy:
                norm = differentiate(chain(x, 2))
        else:
            with policy:
                loss = chain(x, 2)
            norm = differentiate(loss)
        (grad,) = torch.autograd.grad(norm, x)
        return grad

    policy = SavedTensorPolicy()
    assert torch.equal(second(policy), second(None))
    gc.collect()  # double backward makes reference cycles, with or without hooks
    assert policy.ledger.host_bytes == 0


@pytest.mark.parametrize("min_bytes", [0, 1 << 30])
def test_a_write_after_saving_raises_and_says_who_saved(min_bytes: int) -> None:
    x = leaf()
    with SavedTensorPolicy(min_bytes=min_bytes):
        y = x * 2
        z = y.sigmoid()
        loss = (z * z).sum()
    with torch.no_grad():
        z.add_(1)
    with pytest.raises(RuntimeError, match=r"by MulBackward0 was written to .* at version 1 now"):
        loss.backward()


def test_backward_that_writes_to_what_it_was_given_spoils_no_other_save() -> None:
    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            (x,) = ctx.saved_tensors
            x.mul_(0)
            kept.append(x)  # still alive when the next one asks for the same bytes
            return grad + x

    kept: list[Tensor] = []
    x = leaf()
    with SavedTensorPolicy():
        y = x * 1
        squared = y.square()  # made first, so its backward comes second
        loss = (squared + Careless.apply(y)).sum()
    loss.backward()
    assert kept and x.grad is not None and torch.equal(x.grad, 1 + 2 * x.detach())


def test_custom_functions_that_mark_dirty_and_in_place_outputs() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            x.mul_(2)
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            (x,) = ctx.saved_tensors
            return grad * 2 + 0 * x

    def run(policy: SavedTensorPolicy | None) -> Tensor:
        x = leaf()
        if policy is not None:
            policy.__enter__()
        y = Double.apply(x * 3)
        y = torch.relu_(y * 1) + torch.sigmoid_(y * 2) + torch.exp_(y * 0.1)
        loss = y.sum()
        if policy is not None:
            policy.__exit__(None, None, None)
        loss.backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(run(SavedTensorPolicy(min_bytes=0)), run(None))


def test_an_exception_in_forward_leaves_the_hooks_as_they_were() -> None:
    policy = SavedTensorPolicy()
    with pytest.raises(ZeroDivisionError), policy:
        chain(leaf())
        raise ZeroDivisionError
    gc.collect()
    assert policy.ledger.host_bytes == 0
    x = leaf()
    loss = chain(x)
    assert policy.ledger.host_bytes == 0  # no longer active
    loss.backward()


def test_entered_again_and_nested() -> None:
    x = leaf()
    ledger = Ledger()
    outer, inner = SavedTensorPolicy(ledger=ledger), SavedTensorPolicy(marshal=False)
    with outer:
        a = x @ x.t()
        with inner:
            b = a.tanh()
        with outer:
            c = (b @ b).tanh()
        loss = c.sum()
    assert inner.ledger.host_bytes == LARGE  # only the innermost pair of hooks runs
    loss.backward()
    y = leaf()
    b = (y @ y.t()).tanh()
    (b @ b).tanh().sum().backward()
    assert x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)
    assert ledger.host_bytes == inner.ledger.host_bytes == 0


def test_two_forwards_of_one_policy_share_what_did_not_change() -> None:
    x = leaf()
    policy = SavedTensorPolicy()
    losses = []
    for _ in range(2):
        with policy:
            losses.append((x @ x.t()).sum())
    assert policy.ledger.d2h_bytes == LARGE
    for loss in losses:
        loss.backward()
    assert policy.ledger.host_bytes == 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("around", [False, True])
def test_with_activation_checkpointing(reentrant: bool, around: bool) -> None:
    policy = SavedTensorPolicy()

    def inner(x: Tensor) -> Tensor:
        with policy:
            return (x @ x.t()).tanh()

    def plain(x: Tensor) -> Tensor:
        return (x @ x.t()).tanh()

    x = leaf()
    if around:
        with policy:
            y = checkpoint(plain, x * 1, use_reentrant=reentrant)
            loss = (y @ y).sum()
    else:
        loss = checkpoint(
            inner, checkpoint(inner, x * 1, use_reentrant=reentrant), use_reentrant=reentrant
        ).sum()
    loss.backward()
    y = leaf()
    if around:
        z = plain(y * 1)
        (z @ z).sum().backward()
    else:
        plain(plain(y * 1)).sum().backward()
    assert x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)
    assert policy.ledger.host_bytes == 0


def test_under_anomaly_mode_node_metadata_is_shared() -> None:
    x = leaf()
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        with SavedTensorPolicy():
            y = (x @ x.t()).clamp(min=0)
            assert "traceback_" in y.grad_fn.metadata
            loss = (y.t() @ y).sum()
        loss.backward()
    z = leaf()
    y = (z @ z.t()).clamp(min=0)
    (y.t() @ y).sum().backward()
    assert x.grad is not None and z.grad is not None and torch.equal(x.grad, z.grad)


def test_under_autocast_and_vmap() -> None:
    def run(policy: SavedTensorPolicy | None) -> Tensor:
        x = leaf()

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y = (x @ x.t()).relu()
            return torch.vmap(lambda row: (row * row).sum() + row.exp().mean())(
                y.float() / 64
            ).sum()

        if policy is None:
            loss = forward()
        else:
            with policy:
                loss = forward()
        loss.backward()
        assert x.grad is not None
        return x.grad

    policy = SavedTensorPolicy()
    assert torch.equal(run(policy), run(None))
    assert policy.ledger.host_bytes == 0


def test_forwards_on_several_threads_share_a_policy() -> None:
    policy = SavedTensorPolicy(uniquify=True)
    shared = leaf()
    wrong: list[str] = []

    def work(number: int) -> None:
        torch.manual_seed(number)
        for _ in range(10):
            x = torch.randn(64, 64, requires_grad=True)
            reference = (x @ shared.detach()).tanh().square().sum()
            (wanted,) = torch.autograd.grad(reference, x)
            with policy:
                loss = (x @ shared.detach()).tanh().square().sum()
            (grad,) = torch.autograd.grad(loss, x)
            if not torch.equal(grad, wanted):
                wrong.append(f"thread {number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert policy.ledger.host_bytes == 0


def test_nothing_is_left_in_the_registry_of_a_long_run() -> None:
    policy = SavedTensorPolicy(uniquify=True)
    weight = torch.nn.Parameter(torch.randn(64, 64).bfloat16())
    for _ in range(30):
        with policy:
            loss = (torch.randn(64, 64).bfloat16() @ weight).softmax(1).square().sum()
        loss.backward()
        del loss
    registry, uniquifier = policy._registry, policy._uniquifier
    assert registry is not None and uniquifier is not None
    assert sum(len(entries) for entries in registry._by_storage.values()) <= 1
    assert len(uniquifier._sources) <= 1
