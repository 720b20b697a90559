"""Core ML programs keep our tables and our indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edkm
from edkm.export import save
from edkm.export.__main__ import app
from edkm.export.coreml import to_coreml

pytest.importorskip("transformers")
pytest.importorskip("coremltools")

from tests.tiny_llama import tiny_llama

# coremltools says that it was not tested with this torch, and warns of its own deprecations
pytestmark = pytest.mark.filterwarnings("ignore")


def written(folder: Path, *, scaled: bool, group_size: int | None = None) -> Path:
    model = tiny_llama()
    edkm.cluster(model, bits=3, embedding_bits=6, row_scale=scaled, group_size=group_size)
    return save(model, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("coreml") / "m", scaled=False)


def test_every_clustered_weight_is_a_look_up_table(folder: Path) -> None:
    program = to_coreml(folder, length=16)
    operations = program._mil_program.functions["main"].operations
    tables = [op for op in operations if op.op_type == "constexpr_lut_to_dense"]
    assert len(tables) >= 2 * 7 + 1  # the projections, and the embedding, once or twice
    found = {tuple(np.unique(op.lut.val.astype(np.float32))) for op in tables}
    for name, palette in edkm.export.read_palettes(folder)[0].items():
        ours = np.unique(palette.table.numpy().astype(np.float16).astype(np.float32))
        assert any(len(ours) == len(t) and np.allclose(ours, t) for t in found), name


def test_scales_of_rows_go_along(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", scaled=True)
    operations = to_coreml(folder, length=8)._mil_program.functions["main"].operations
    scales = [op for op in operations if op.op_type == "constexpr_blockwise_shift_scale"]
    found = [op.scale.val.astype(np.float32).reshape(-1) for op in scales]
    palettes = edkm.export.read_palettes(folder)[0].values()
    ours = [palette.scale.float().numpy() for palette in palettes if palette.scale is not None]
    assert len(ours) == 2 * 7
    for scale in ours:
        assert any(len(f) == len(scale) and np.allclose(f, scale, rtol=1e-3) for f in found)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    def command(*options: str) -> object:
        return CliRunner().invoke(app, [str(folder), *options])

    out = tmp_path / "m.mlpackage"
    assert command("--coreml", str(out), "--length", "8").exit_code == 0  # type: ignore
    again = command("--coreml", str(out), "--length", "9", "--force")
    assert again.exit_code == 0  # type: ignore
    assert sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) > 8000
    assert command("--dense", str(tmp_path / "plain")).exit_code == 0  # type: ignore
    new = str(tmp_path / "new.mlpackage")
    for options, words in [
        ((), "nothing to write"),
        (("--coreml", new, "--length", "65"), "64"),
        (("--coreml", "new"), "NAME.mlpackage"),
        (("--coreml", str(out)), "holds a model already"),
    ]:
        bad = command(*options)
        assert bad.exit_code == 2 and words in bad.stderr  # type: ignore


@pytest.mark.parametrize("scaled", [False, True])
def test_groups_of_rows_keep_their_own_tables(tmp_path: Path, scaled: bool) -> None:
    folder = written(tmp_path / "m", scaled=scaled, group_size=8)
    operations = to_coreml(folder, length=8)._mil_program.functions["main"].operations
    dense = []
    for op in (op for op in operations if op.op_type == "constexpr_lut_to_dense"):
        table = op.lut.val
        if table is None:  # made by the operation that multiplies it by the rows' scales
            table = op.lut.op.data.val * op.lut.op.scale.val
        index = op.indices.val.astype(np.int64)
        rows = table.reshape(len(table), -1).repeat(len(index) // len(table), axis=0)
        dense.append(np.take_along_axis(rows.astype(np.float32), index, axis=1))
    palettes = edkm.export.read_palettes(folder)[0]
    assert sum(palette.groups > 1 for palette in palettes.values()) == 2 * 7
    for name, palette in palettes.items():
        ours = palette.dense().numpy()
        same = [
            d for d in dense if d.shape == ours.shape and np.allclose(d, ours, rtol=2e-3, atol=1e-6)
        ]
        assert same, name
