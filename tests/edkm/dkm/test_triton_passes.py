"""The Triton kernels in Triton's interpreter on the CPU, against the torch operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import pytest
import torch

from edkm.dkm.kernels.choice import named_passes
from edkm.dkm.patterns import PATTERNS, pattern_index, pattern_values

pytest.importorskip("triton")
reference = named_passes("torch_ops")


@pytest.fixture
def kernels(interpreted: Callable[[str], ModuleType]) -> ModuleType:
    return interpreted("triton_cuda")


def finite(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2048, 70_001])
def test_counts_and_looks_up_alike(kernels: ModuleType, dtype: torch.dtype, n: int) -> None:
    weight, table = finite(n, dtype, 0), finite(PATTERNS, dtype, 1)
    assert torch.equal(kernels.histogram(weight), reference.histogram(weight))
    out = torch.empty_like(weight)
    kernels.lookup(weight, table, out)
    assert torch.equal(out, table[pattern_index(weight)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2048, 70_001])
def test_sums_and_pulls_alike(kernels: ModuleType, dtype: torch.dtype, n: int) -> None:
    weight, grad = finite(n, dtype, 0), finite(n, dtype, 1)
    torch.testing.assert_close(
        kernels.segment_sum(weight, grad),
        reference.segment_sum(weight, grad),
        rtol=1e-12,
        atol=1e-12,
    )
    slope, shift = finite(PATTERNS, torch.float32, 2), finite(PATTERNS, torch.float32, 3)
    outs = [torch.empty_like(weight) for _ in range(2)]
    for passes, out in zip((kernels, reference), outs, strict=True):
        passes.gradient(weight, grad, slope, shift, out)
    # a fused multiply-add may round the other way, by one last bit
    torch.testing.assert_close(*outs, rtol=torch.finfo(dtype).eps, atol=1e-6)
    kernels.gradient(weight, grad, slope, shift, grad)  # in place
    assert torch.equal(grad, outs[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tail", [-1, 0, 1])
def test_every_pattern_has_its_own_row(kernels: ModuleType, dtype: torch.dtype, tail: int) -> None:
    # NaNs of every payload, both zeros, and a last block that is short, full or of one weight
    every = pattern_values(dtype)
    weight = torch.cat([every, every[-1:]])[: PATTERNS + tail]
    assert torch.equal(kernels.histogram(weight), reference.histogram(weight))
    table, out = every.flip(0), torch.empty_like(weight)
    kernels.lookup(weight, table, out)
    assert torch.equal(out.view(torch.int16), table.view(torch.int16)[pattern_index(weight)])


def test_launches_on_the_device_of_the_weight(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, asked = finite(5, torch.bfloat16, 0), []

    def device_of(tensor: torch.Tensor) -> AbstractContextManager[None]:
        asked.append(tensor)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    kernels.histogram(weight)
    assert len(asked) == 1 and asked[0] is weight


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    kernels = named_passes("triton_cuda")
    n = (1 << 22) + 5
    weight, grad = finite(n, dtype, 0), finite(n, dtype, 1)
    slope, shift = finite(PATTERNS, torch.float32, 2), finite(PATTERNS, torch.float32, 3)
    there = [t.cuda() for t in (weight, grad, slope, shift)]
    assert torch.equal(kernels.histogram(there[0]).cpu(), reference.histogram(weight))
    sums = kernels.segment_sum(there[0], there[1]).cpu()
    torch.testing.assert_close(sums, reference.segment_sum(weight, grad), rtol=1e-9, atol=1e-9)
    out = torch.empty_like(there[0])
    kernels.gradient(*there, out)
    expected = torch.empty_like(weight)
    reference.gradient(weight, grad, slope, shift, expected)
    torch.testing.assert_close(out.cpu(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
