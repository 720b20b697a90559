"""Packing at every width, palettes that equal hard assignment, layers that equal plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edkm.dkm import assign_hard, initial_centroids
from edkm.palette import Palette, pack_indices, packed_bytes, palettize, unpack_indices
from edkm.palettized import PalettizedEmbedding, PalettizedLinear, take_indices


@st.composite
def index_lists(draw: st.DrawFn) -> tuple[int, torch.Tensor]:
    bits = draw(st.integers(1, 8))
    values = draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    return bits, torch.tensor(values, dtype=torch.int64)


@given(index_lists(), st.data())
def test_packing_round_trips_from_any_start(
    case: tuple[int, torch.Tensor], data: st.DataObject
) -> None:
    bits, indices = case
    packed = pack_indices(indices, bits)
    assert packed.numel() == packed_bytes(len(indices), bits)
    start = data.draw(st.integers(0, len(indices)))
    count = data.draw(st.integers(0, len(indices) - start))
    wanted = indices[start : start + count]
    assert torch.equal(unpack_indices(packed, count, bits, start=start), wanted)
    positions = torch.arange(start, start + count)
    if count:
        assert torch.equal(take_indices(packed, positions, bits), wanted)


def test_packing_is_one_little_endian_bit_stream() -> None:
    indices = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0, 5])
    stream = sum(int(index) << (3 * at) for at, index in enumerate(indices))
    assert bytes(pack_indices(indices, 3).tolist()) == stream.to_bytes(4, "little")


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_across_chunks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edkm.palette._CHUNK", 16)
    indices = torch.randint(0, 2**bits, (133,), generator=torch.Generator().manual_seed(0))
    packed = pack_indices(indices, bits)
    assert torch.equal(unpack_indices(packed, 133, bits), indices)
    assert torch.equal(unpack_indices(packed, 100, bits, start=29), indices[29:129])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("groups", [1, 3])
def test_compiled_look_up_is_the_general_one(
    bits: int, dtype: torch.dtype, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(bits)
    indices = torch.randint(0, 2**bits, (33 * 35,), generator=generator)
    tables = torch.randn(groups, 2**bits, 1, generator=generator).to(dtype)
    table = tables if groups > 1 else tables[0]
    palette = Palette(table, pack_indices(indices, bits), (33, 35), bits)
    spans = [(0, 1155), (0, 0), (8, 3), (3, 30), (16, 1000), (379, 14), (1147, 8), (384, 771)]
    found = [palette.vectors_at(start, count) for start, count in spans]
    assert palette._compiled() is not None
    monkeypatch.setattr("edkm.palette._load_compiled", lambda: None)
    for (start, count), one in zip(spans, found, strict=True):
        assert torch.equal(one, palette.vectors_at(start, count)), (start, count)
    if groups == 1:
        wanted = table[indices]
        assert torch.equal(found[0], wanted)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="the weight has 1155"):
        palette.vectors_at(1150, 6)


def test_bad_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bits hold 0 to 7"):
        pack_indices(torch.tensor([8]), 3)
    with pytest.raises(ValueError, match="bits"):
        pack_indices(torch.tensor([1]), 9)
    with pytest.raises(ValueError, match="cut"):
        unpack_indices(torch.zeros(2, dtype=torch.uint8), 6, 3)
    with pytest.raises(ValueError, match="bytes of indices"):
        Palette(torch.zeros(8, 1), torch.zeros(2, dtype=torch.uint8), (4, 4), 3)
    with pytest.raises(ValueError, match="table has shape"):
        Palette(torch.zeros(9, 1), torch.zeros(6, dtype=torch.uint8), (4, 4), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "dim"), [(1, 1), (3, 1), (8, 1), (4, 2)])
def test_a_palette_is_the_hard_weight(dtype: torch.dtype, bits: int, dim: int) -> None:
    weight = torch.randn(48, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    centroids = initial_centroids(weight, 2**bits, dim)
    palette = palettize(weight, centroids, bits)
    assert torch.equal(palette.dense(), assign_hard(weight, centroids))
    assert torch.equal(palette.rows(3, 9), palette.dense()[3:9])
    assert palette.nbytes == packed_bytes(960 // dim, bits) + 2**bits * dim * dtype.itemsize


@pytest.mark.parametrize("dim", [1, 2])
def test_layers_equal_plain_layers(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edkm.palettized._FEW_BLOCK", 64)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(37, 10, generator=generator)
    palette = palettize(weight, initial_centroids(weight, 8, dim), 3)
    bias, x = torch.randn(37, generator=generator), torch.randn(2, 5, 10, generator=generator)
    linear = PalettizedLinear(palette, bias)
    torch.testing.assert_close(linear(x), F.linear(x, palette.dense(), bias))
    embedding = PalettizedEmbedding(palette)
    ids = torch.tensor([[0, 36, 5], [5, 1, 0]])
    assert torch.equal(embedding(ids), F.embedding(ids, palette.dense()))
    with pytest.raises(IndexError, match="37 rows"):
        embedding(torch.tensor([37]))


def test_layers_move_as_modules_do() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    layer = PalettizedLinear(palettize(weight, initial_centroids(weight, 8), 3))
    assert layer.indices.numel() == 48 and not list(layer.parameters())
    half = layer.to(torch.bfloat16)
    assert half.indices.dtype == torch.uint8 and half.table.dtype == torch.bfloat16
    assert half(torch.zeros(1, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
