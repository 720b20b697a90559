"""Each way in which a published offloader aliased wrongly, as a test that the naive key fails.

The naive offloader below keys copies by (address, dtype). Every case is run with it first, and
must go wrong; then with ours, and must not.
"""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edkm.saved import SavedTensorPolicy


class NaiveOffloader(torch.autograd.graph.saved_tensors_hooks):
    """One host copy per (address, dtype): what several offloaders do."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, torch.dtype], Tensor] = {}
        self.host_bytes = 0
        super().__init__(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.dtype)
        if key not in self._copies:
            self._copies[key] = tensor.detach().clone()
            self.host_bytes += tensor.nbytes
        return self._copies[key]

    def unpack(self, copy: Tensor) -> Tensor:
        return copy


def gradients(forward: Callable[[Tensor], Tensor], context: object) -> Tensor:
    torch.manual_seed(0)
    leaf = torch.randn(32, 32, requires_grad=True)
    if context is None:
        out = forward(leaf)
    else:
        with context:  # type: ignore[attr-defined]
            out = forward(leaf)
    out.backward()
    assert leaf.grad is not None
    return leaf.grad


def ours() -> SavedTensorPolicy:
    return SavedTensorPolicy(min_bytes=0)


def naive_is_wrong(forward: Callable[[Tensor], Tensor]) -> bool:
    """A wrong gradient or a crash."""
    try:
        return not torch.equal(gradients(forward, NaiveOffloader()), gradients(forward, None))
    except RuntimeError:
        return True


def square_transpose(x: Tensor) -> Tensor:
    y = x * 2
    return (y.sin() @ y + y.t().cos() @ y.t()).sum()


def two_dtypes(x: Tensor) -> Tensor:
    y = x * 2
    mask = y.detach().view(torch.int32)
    return (y.square() * (mask > 0)).sum() + (y * mask.view(torch.float32)).square().sum()


def slices_of_one_start(x: Tensor) -> Tensor:
    y = x * 2
    return y[:4].square().sum() + y.square().sum() + y[:, 0].square().sum()


def two_strides(x: Tensor) -> Tensor:
    y = x * 2
    windows = y.view(-1).as_strided((31, 64), (32, 1))
    return windows.square().sum() + y.view(-1)[::2].square().sum() + y.square().sum()


CASES = {
    "verl, ms-swift 10157: a square transpose": square_transpose,
    "several lengths from one start": slices_of_one_start,
    "overlapping windows and strides": two_strides,
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_alias_of_a_naive_key_is_right_here(name: str) -> None:
    forward = CASES[name]
    assert naive_is_wrong(forward)
    assert torch.equal(gradients(forward, ours()), gradients(forward, None))


def test_two_dtypes_over_one_storage() -> None:
    assert torch.equal(gradients(two_dtypes, ours()), gradients(two_dtypes, None))


def temporaries_at_one_address(context: object) -> Tensor:
    """The gradient 1 + 2 + ... + 10 by ten tensors that live one after the other at one address."""
    memory = bytearray(32 * 32 * 4)
    x = torch.randn(32, 32, requires_grad=True)
    addresses = set()
    with context:  # type: ignore[attr-defined]
        total = x.sum() * 0
        for step in range(1, 11):
            memory[:] = struct.pack("f", step) * (32 * 32)
            temporary = torch.frombuffer(memory, dtype=torch.float32).view(32, 32)
            addresses.add(temporary.data_ptr())
            total = total + (x * temporary).sum()
            watch = weakref.ref(temporary.untyped_storage())
            del temporary
            assert watch() is None  # the next one is a new storage, where the old one was
    assert len(addresses) == 1
    total.backward()
    assert x.grad is not None
    return x.grad


def test_trl_6241_7193_an_address_given_out_again() -> None:
    expected = torch.full((32, 32), 55.0)
    assert not torch.equal(temporaries_at_one_address(NaiveOffloader()), expected)
    assert torch.equal(temporaries_at_one_address(ours()), expected)


def test_the_allocators_own_reuse_of_addresses() -> None:
    """As above with whatever the allocator does, over many steps."""
    policy = ours()
    handles = []
    for step in range(500):
        tensor = torch.full((64, 64), float(step))
        handles.append(policy.pack(tensor))
        del tensor
    assert all(h.action == "copied" for h in handles)
    assert all(float(policy.unpack(h)[0, 0]) == step for step, h in enumerate(handles))


def test_save_on_cpu_copies_a_storage_once_per_save() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        return (y.sin() + y.cos() + y.square()).sum()

    policy = ours()
    counted = SavedTensorPolicy(marshal=False, min_bytes=0)
    expected = gradients(forward, None)
    assert torch.equal(gradients(forward, policy), expected)
    assert torch.equal(gradients(forward, counted), expected)
    once = 32 * 32 * 4
    assert counted.ledger.d2h_bytes == 3 * once  # what save_on_cpu moves
    assert policy.ledger.d2h_bytes == once


def test_trl_keeps_a_duplicate_on_the_device() -> None:
    """After the forward no save may hold the device storage, however often it was saved."""

    class KeepsDuplicates(NaiveOffloader):
        def pack(self, tensor: Tensor) -> Tensor:
            key = (tensor.data_ptr(), tensor.dtype)
            return tensor if key in self._copies else super().pack(tensor)

    for context, freed in ((KeepsDuplicates(), False), (ours(), True)):
        x = torch.randn(32, 32, requires_grad=True)
        with context:
            y = x * 2
            watch = weakref.ref(y.untyped_storage())
            loss = (y.sin() + y.square() + (y.t() @ y)).sum()
            del y
        assert (watch() is None) is freed
        loss.backward()


def test_deepspeed_8387_a_small_view_is_the_last_holder_of_its_storage() -> None:
    def kept_by_size(tensor: Tensor) -> Tensor:
        return tensor if tensor.nbytes < 1024 else tensor.clone()

    naive = torch.autograd.graph.saved_tensors_hooks(kept_by_size, lambda t: t)
    for context, freed in ((naive, False), (SavedTensorPolicy(min_bytes=1024), True)):
        x = torch.randn(512, 512, requires_grad=True)
        with context:
            y = x * 2
            watch = weakref.ref(y.untyped_storage())
            loss = y[0, :8].square().sum()
            del y
        assert (watch() is None) is freed
        loss.backward()


def written_after_saving(context: object) -> Tensor:
    x = torch.ones(32, 32, requires_grad=True)
    with context:  # type: ignore[attr-defined]
        y = x * 2
        loss = y.square().sum()
    with torch.no_grad():
        y.mul_(10)
    loss.backward()
    assert x.grad is not None
    return x.grad


def test_all_of_them_a_write_after_saving() -> None:
    def keep(tensor: Tensor) -> Tensor:
        return tensor

    kept = torch.autograd.graph.saved_tensors_hooks(keep, keep)
    assert not torch.equal(written_after_saving(kept), torch.full((32, 32), 8.0))  # silent
    with pytest.raises(RuntimeError, match=r"by PowBackward0 was written to in place: \[32, 32\]"):
        written_after_saving(ours())


def test_a_write_between_two_saves_is_not_hidden_by_the_first_copy() -> None:
    """Also where only the later save is used, so that nothing needs to raise."""
    x = torch.randn(32, 32, requires_grad=True)
    w = torch.randn(32, 32, requires_grad=True)

    def run(context: object) -> Tensor:
        y = x.detach() * 2
        with context:  # type: ignore[attr-defined]
            first = (y * w).sum()
            y.mul_(3)
            second = (y * w).sum()
        (grad,) = torch.autograd.grad(second, w)
        with pytest.raises(RuntimeError, match="written to in place"):
            first.backward()
        return grad

    assert torch.equal(run(ours()), x.detach() * 6)


def test_an_equal_version_number_of_another_counter() -> None:
    """`x.data` has the storage of x and its own counter, which may show the same number."""
    w = torch.randn(32, 32, requires_grad=True)
    x = torch.ones(32, 32)
    x.mul_(1)  # version 1
    with ours():
        first = (x * w).sum()
        hidden = x.data
        hidden.mul_(5)  # version 1 of the other counter
        second = (hidden * w).sum()
    (grad,) = torch.autograd.grad(second, w)
    assert torch.equal(grad, torch.full((32, 32), 5.0))
    del first


def test_data_swapped_under_one_history() -> None:
    w = torch.randn(32, 32, requires_grad=True)
    x = torch.ones(32, 32, requires_grad=True)
    y = x * 1
    with ours():
        first = (y * w).sum()
        y.data = torch.full((32, 32), 7.0)
        second = (y * w).sum()
    (grad,) = torch.autograd.grad(second, w)
    assert torch.equal(grad, torch.full((32, 32), 7.0))
    del first


def test_clamp_of_what_was_written_to_before_the_policy_was_entered() -> None:
    x = torch.randn(32, 32, requires_grad=True)
    w = torch.randn(32, 32, requires_grad=True)
    y = x * 1
    z = y.clamp(min=0)
    wanted = z.detach().clone()
    with torch.no_grad():
        y.mul_(-3)
    with ours() as policy:
        a = (y * w).sum()  # y as it is now is on the host ...
        b = (z * w).sum()  # ... and z is not its clamp
    (grad,) = torch.autograd.grad(b, w)
    assert torch.equal(grad, wanted)
    assert policy.ledger.d2h_bytes == 2 * 2 * 32 * 32 * 4 - 32 * 32 * 4  # w once
    del a


def test_clamp_chains_and_writes_to_a_clamped_tensor() -> None:
    def forward(x: Tensor) -> Tensor:
        y = (x * 3).softmax(1)
        once = y.clamp(min=0.02)
        twice = once.clamp(0.03, 0.5)
        bounded = twice.clamp(min=torch.full((32,), 0.04))
        return (y * once * twice * bounded * once.t()).sum()

    assert torch.equal(gradients(forward, ours()), gradients(forward, None))
    x = torch.randn(32, 32, requires_grad=True)
    w = torch.randn(32, 32, requires_grad=True)
    with ours():
        z = x.clamp(min=0)
        with torch.no_grad():
            z.add_(1)
        loss = (z * w).sum()
    loss.backward()
    assert w.grad is not None and torch.equal(w.grad, x.detach().clamp(min=0) + 1)


def test_torchtune_1867_nothing_is_freed_before_it_was_read() -> None:
    """Deletion while copies are in use: every buffer dies exactly with its last user."""
    policy = ours()
    for _ in range(20):
        x = torch.randn(64, 64, requires_grad=True)
        with policy:
            y = (x @ x).relu()
            loss = (y @ y.t()).square().mean()
            del y
        loss.backward()
        del loss
        gc.collect()
        assert x.grad is not None and not x.grad.isnan().any()
        assert policy.ledger.host_bytes == 0
