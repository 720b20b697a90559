"""The passes over a weight: every implementation gives the same bits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edkm.dkm import kernels
from edkm.dkm.kernels import passes_for
from edkm.dkm.kernels.choice import Passes, named_passes
from edkm.dkm.patterns import PATTERNS, pattern_index, pattern_values

DTYPES = [torch.bfloat16, torch.float16]
reference = named_passes("torch_ops")


@pytest.fixture(params=["torch_ops", "numba_cpu"])
def passes(request: pytest.FixtureRequest) -> Passes:
    if request.param == "numba_cpu":
        pytest.importorskip("numba")
    return named_passes(request.param)


def any_bits(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, PATTERNS, (n,), generator=generator, dtype=torch.int32)
    return bits.to(torch.int16).view(dtype)


def finite(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 70_000, 1_200_000])
def test_histogram_and_lookup(passes: Passes, dtype: torch.dtype, n: int) -> None:
    weight, table = any_bits(n, dtype, 0), any_bits(PATTERNS, dtype, 1)
    index = pattern_index(weight)
    counts = passes.histogram(weight)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, torch.bincount(index, minlength=PATTERNS))
    out = torch.empty_like(weight)
    passes.lookup(weight, table, out)
    assert torch.equal(out.view(torch.int16), table[index].view(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 70_000, 1_200_000])
def test_segment_sum_and_gradient(passes: Passes, dtype: torch.dtype, n: int) -> None:
    weight, grad = finite(n, dtype, 0), finite(n, dtype, 1)
    index = pattern_index(weight)
    sums = passes.segment_sum(weight, grad)
    expected = torch.zeros(PATTERNS, dtype=torch.float64).index_add_(0, index, grad.double())
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    slope, shift = finite(PATTERNS, torch.float32, 2), finite(PATTERNS, torch.float32, 3)
    out = torch.empty_like(weight)
    passes.gradient(weight, grad, slope, shift, out)
    assert torch.equal(out, (grad.float() * slope[index] + shift[index]).to(dtype))
    passes.gradient(weight, grad, slope, shift, grad)  # in place
    assert torch.equal(out, grad)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shares_cover_every_weight(passes: Passes, threads: int) -> None:
    weight, table = any_bits((1 << 20) + 7, torch.bfloat16, 0), any_bits(PATTERNS, torch.int16, 1)
    table, grad = table.view(torch.bfloat16), finite((1 << 20) + 7, torch.bfloat16, 2)
    ones, zeros = torch.ones(PATTERNS), torch.zeros(PATTERNS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        counts, sums = passes.histogram(weight), passes.segment_sum(weight, grad)
        again = passes.segment_sum(weight, grad)
        passes.lookup(weight, table, out := torch.empty_like(weight))
        passes.gradient(weight, grad, ones, zeros, same := torch.empty_like(grad))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(counts, reference.histogram(weight))
    assert torch.equal(out.view(torch.int16), table.view(torch.int16)[pattern_index(weight)])
    assert torch.equal(same, grad)
    assert torch.equal(sums, again)  # whichever thread took which part
    torch.testing.assert_close(sums, reference.segment_sum(weight, grad), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@given(upstream=st.floats(width=32), slope=st.floats(width=32), shift=st.floats(width=32))
def test_rounding_is_torchs(
    dtype: torch.dtype, upstream: float, slope: float, shift: float
) -> None:
    pytest.importorskip("numba")
    weight, grad = torch.zeros(1, dtype=dtype), torch.tensor([upstream]).to(dtype)
    tables = torch.full((PATTERNS,), slope), torch.full((PATTERNS,), shift)
    outs = [torch.empty_like(grad) for _ in range(2)]
    for passes, out in zip((reference, named_passes("numba_cpu")), outs, strict=True):
        passes.gradient(weight, grad, *tables, out)
    assert torch.equal(outs[0].isnan(), outs[1].isnan())
    assert torch.equal(outs[0].nan_to_num(), outs[1].nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_every_neighbourhood_of_a_value_as_torch_does(
    passes: Passes, dtype: torch.dtype
) -> None:
    # each value of the dtype, the middle to the next one, and both float32 neighbours of these
    values = pattern_values(dtype)
    values = values[torch.isfinite(values)].float()
    up = torch.nextafter(values.to(dtype), torch.tensor(float("inf"), dtype=dtype)).float()
    middles = torch.where(up.isfinite(), values / 2 + up / 2, values)
    exact = torch.cat([values, middles])
    around = [torch.nextafter(exact, torch.full_like(exact, s * float("inf"))) for s in (-1, 1)]
    for shift in torch.cat([exact, *around]).split(PATTERNS):
        shift = torch.nn.functional.pad(shift, (0, PATTERNS - len(shift)))
        weight = pattern_values(dtype)  # reads every row of the table once
        out = torch.empty_like(weight)
        passes.gradient(weight, torch.zeros_like(weight), torch.ones(PATTERNS), shift, out)
        assert torch.equal(out, shift.to(dtype))


def test_every_float16_sum_reads_its_value(passes: Passes) -> None:
    grad = pattern_values(torch.float16)
    grad = grad[torch.isfinite(grad)]
    weight = torch.arange(grad.numel(), dtype=torch.int32).to(torch.int16).view(torch.float16)
    sums = passes.segment_sum(weight, grad)
    assert torch.equal(sums[: grad.numel()], grad.double())


def test_the_cpu_takes_numba_where_it_is_installed() -> None:
    name = passes_for(torch.device("cpu")).__name__
    assert name.endswith("numba_cpu" if find_spec("numba") else "torch_ops")


def test_a_missing_implementation_falls_back() -> None:
    assert named_passes("no_such_kernels") is reference


def test_loops_that_may_not_be_compiled_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    for name in ("numba_cpu", "numba_loops"):
        monkeypatch.delitem(sys.modules, f"edkm.dkm.kernels.{name}", raising=False)
    monkeypatch.delattr(kernels, "numba_loops", raising=False)
    assert named_passes("numba_cpu") is reference


FORKED = """
import os
import torch
from edkm.dkm.kernels import passes_for

torch.set_num_threads(2)
weight = torch.randn(1 << 20).bfloat16()
work = passes_for(weight.device)
before = work.histogram(weight)
child = os.fork()
if child == 0:
    # numpy compares: torch's own threads do not survive a fork
    os._exit(0 if (work.histogram(weight).numpy() == before.numpy()).all() else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_passes_with_threads_of_its_own() -> None:
    # a child that waited for its parent's threads would wait for ever
    run = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("first", [1, 2, 4])
def test_a_weight_may_begin_anywhere_in_memory(passes: Passes, first: int) -> None:
    weight, grad = (finite(2000, torch.bfloat16, seed)[first:] for seed in (0, 1))
    table, slope = finite(PATTERNS, torch.bfloat16, 2), finite(PATTERNS, torch.float32, 3)
    index = pattern_index(weight)
    assert torch.equal(passes.histogram(weight), torch.bincount(index, minlength=PATTERNS))
    for start in (0, 1):  # where the results begin
        out = torch.empty(2000, dtype=torch.bfloat16)[start : start + len(weight)]
        passes.lookup(weight, table, out)
        assert torch.equal(out, table[index])
        passes.gradient(weight, grad, slope, slope, out)
        assert torch.equal(out, (grad.float() * slope[index] + slope[index]).bfloat16())
