"""The product with a palette as a Triton kernel, in Triton's interpreter, against the dense one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import edkm
from edkm.dkm import initial_centroids
from edkm.palette import palettize

pytest.importorskip("triton")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it would be imported with TRITON_INTERPRET=1."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = Path(edkm.__file__).with_name("lut_matmul.py")
    spec = importlib.util.spec_from_file_location("interpreted_lut_matmul", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("scaled", "groups"), [(False, 1), (True, 1), (True, 6)])
def test_equals_the_dense_product(kernel: ModuleType, bits: int, scaled: bool, groups: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(66, 75, generator=generator)  # no multiple of a tile, rows off the byte
    scale = (torch.rand(66, generator=generator) + 0.5).bfloat16() if scaled else None
    centroids = initial_centroids(weight, 2**bits)
    if groups > 1:
        centroids = torch.stack([initial_centroids(w, 2**bits) for w in weight.chunk(groups)])
    palette = palettize(weight, centroids, bits, scale)
    x = torch.randn(19, 75, generator=generator)
    found = kernel.lut_matmul(x, palette.table, palette.packed, 66, bits, palette.scale)
    torch.testing.assert_close(found, x @ palette.dense().T, rtol=1e-5, atol=1e-5)


def test_sums_of_half_precision_are_float32(kernel: ModuleType) -> None:
    weight = torch.randn(16, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    palette = palettize(weight, initial_centroids(weight, 8), 3)
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = kernel.lut_matmul(x, palette.table, palette.packed, 16, 3)
    exact = x.double() @ palette.dense().double().T
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), rtol=2**-7, atol=1e-4)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from edkm.palettized import PalettizedLinear

    weight = torch.randn(130, 200, device="cuda")
    layer = PalettizedLinear(palettize(weight, initial_centroids(weight, 8), 3))
    x = torch.randn(2, 5, 200, device="cuda")
    torch.testing.assert_close(layer(x), x @ layer.weight.T, rtol=1e-3, atol=1e-3)
