"""Any view of any storage comes back as it was: values, dtype, size, stride, conj and neg bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edkm.saved import SavedTensorPolicy
from edkm.saved.layout import Layout, flat_bytes, gather, restore, scatter

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)


def assert_same(back: Tensor, tensor: Tensor) -> None:
    assert (back.dtype, back.shape, back.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert (back.is_conj(), back.is_neg()) == (tensor.is_conj(), tensor.is_neg())
    assert torch.equal(bits(back), bits(tensor))


def bits(tensor: Tensor) -> Tensor:
    packed = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return packed.view(-1).view(torch.uint8)


@st.composite
def any_view(draw: st.DrawFn, base: Tensor) -> Tensor:
    """A view of `base` (1-D), by a few random steps."""
    size = draw(st.sampled_from([(60,), (6, 10), (10, 6), (3, 4, 5), (2, 3, 2, 5)]))
    view = base[: base.numel() // 60 * 60][:60].view(size)
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "slice", "select", "expand", "window", "flat"]))
        dim = draw(st.integers(0, max(view.dim() - 1, 0)))
        if kind == "transpose" and view.dim() > 1:
            view = view.transpose(dim, draw(st.integers(0, view.dim() - 1)))
        elif kind == "slice" and view.dim() and view.shape[dim] > 1:
            start = draw(st.integers(0, view.shape[dim] - 1))
            view = view.narrow(dim, start, draw(st.integers(1, view.shape[dim] - start)))
            view = view[:: draw(st.integers(1, 3))]
        elif kind == "select" and view.dim():
            view = view.select(dim, draw(st.integers(0, view.shape[dim] - 1)))
        elif kind == "expand" and view.dim() < 5:
            view = view.unsqueeze(dim).expand(*view.shape[:dim], 3, *view.shape[dim:])
        elif kind == "window" and view.dim() and 1 < view.shape[dim] and view.dim() < 5:
            view = view.unfold(dim, 2, draw(st.integers(1, 2)))
        elif kind == "flat" and view.is_contiguous():
            view = view.view(-1)
    return view


def base_of(dtype: torch.dtype, length: int = 64) -> Tensor:
    """Random bytes, so that NaN payloads and negative zeros occur (bool: 0 and 1 only)."""
    if dtype is torch.bool:
        return torch.randint(0, 2, (length,)).bool()
    raw = torch.randint(0, 256, (length * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype)


@settings(max_examples=150)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_the_layout_of_any_view_is_restored(
    data: st.DataObject, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    view = data.draw(any_view(base_of(dtype)))
    layout = Layout.of(view)
    if layout.has_gaps:
        flat = scatter(gather(view, layout), layout)
    else:
        flat = flat_bytes(view, layout).clone()
    assert_same(restore(flat, layout.span[0], layout), view)


@settings(max_examples=150)
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    marshal=st.booleans(),
    shard=st.sampled_from([None, 2, 3, 7]),
)
def test_any_views_of_one_storage_are_unpacked_as_they_were(
    data: st.DataObject, dtype: torch.dtype, seed: int, marshal: bool, shard: int | None
) -> None:
    torch.manual_seed(seed)
    base = base_of(dtype)
    policy = SavedTensorPolicy(marshal=marshal, shard=shard, min_bytes=0)
    views = [data.draw(any_view(base)) for _ in range(data.draw(st.integers(1, 5)))]
    views += [views[0], base]
    handles = [policy.pack(view) for view in views]
    for number in data.draw(st.permutations(range(len(views)))):
        assert_same(policy.unpack(handles[number]), views[number])
        assert_same(policy.unpack(handles[number]), views[number])
    del handles
    assert policy.ledger.host_bytes == policy.ledger.peer_bytes == 0


def test_views_of_a_copied_storage_add_nothing() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    base = torch.rand(32, 32)
    first = policy.pack(base)
    for view in (
        base.t(),
        base.view(-1),
        base[3],
        base[:, 5:9],
        base[::3, ::2],
        base.unfold(0, 4, 2),
        base[2].expand(9, 32),
        base.detach(),
        base.view(torch.int32),
        base.view(torch.bfloat16),
        base.as_strided((5, 7), (3, 1), 11),
        base[1:][2:, 3:].t(),
    ):
        handle = policy.pack(view)
        assert (handle.action, handle.alias_of, handle.host_bytes) == ("alias", first.serial, 0)
        assert_same(policy.unpack(handle), view)


def test_a_part_on_the_host_does_not_stand_for_the_whole() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    base = torch.rand(8, 8)
    assert policy.pack(base[2:4]).host_bytes == 64
    parts = [policy.pack(base[2:4]), policy.pack(base)]
    assert [p.action for p in parts] == ["copied", "copied"]  # the first was dropped at once
    gaps = policy.pack(base[:, ::2].clone()[:, ::2])
    assert gaps.host_bytes == 8 * 2 * 4  # only its elements, not those between


def test_what_lies_between_the_elements_of_a_view_was_not_copied() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    base = torch.rand(8, 8)
    views = [base[:, ::4], base[:, ::4], base[:7, 1], base[1:3, :4], base[:, ::4].t()]
    handles = [policy.pack(view) for view in views]
    assert [h.action for h in handles] == ["copied", "alias", "copied", "copied", "copied"]
    for handle, view in zip(handles, views, strict=True):
        assert_same(policy.unpack(handle), view)


def test_lazy_conjugates_and_negatives() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    values = torch.randn(4, 4, dtype=torch.complex64)
    zoo = [values, values.conj(), values.imag, values.conj().imag, values.mH, values.real[1:]]
    handles = [policy.pack(v) for v in zoo]
    assert [h.action for h in handles] == ["copied"] + ["alias"] * 5
    for handle, value in zip(handles, zoo, strict=True):
        assert_same(policy.unpack(handle), value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_what_is_not_elements_in_a_storage_is_kept() -> None:
    class Tagged(Tensor):
        pass

    policy = SavedTensorPolicy(min_bytes=0)
    dense = torch.eye(40)
    zoo = [
        dense.to_sparse(),
        dense.to_sparse_csr(),
        dense.as_subclass(Tagged),
        torch.nested.nested_tensor([dense, dense[:2]]),
        torch.empty(40, 40, device="meta"),
        torch.empty(0, 40),
        dense[:0],
    ]
    for tensor in zoo:
        handle = policy.pack(tensor)
        assert handle.action == "kept"
        back = policy.unpack(handle)
        assert type(back) is type(tensor) and back.layout is tensor.layout
        assert back.is_nested == tensor.is_nested and back.device == tensor.device
    assert policy.ledger.host_bytes == 0


def test_a_scalar_and_a_single_row() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    for tensor in (torch.tensor(2.5), torch.rand(1, 1, 1), torch.rand(7, 7)[3, 3]):
        handle = policy.pack(tensor)
        assert handle.host_bytes == 4
        assert_same(policy.unpack(handle), tensor)
