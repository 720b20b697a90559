"""The ablation: the paper's bytes, exactly; equal gradients; the trace agrees with plain hooks."""

from __future__ import annotations

import json

import pytest
import torch

from profiler import Tracer, open_run
from profiler.ablation import run_ablation
from profiler.ablation_rows import CONFIGS, AblationSettings
from profiler.checkpoint import CheckpointLayer
from profiler.layers import PRESETS, parse_layer
from profiler.workloads import PresetLayer, Workload

MIB = 1 << 20
ROWS = tuple(name for name in CONFIGS if name != "fused")


def _preset(model: str = "llama-tiny", matrix: str | None = None, **changes) -> PresetLayer:
    settings = {
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "bits": 3,
        "tau": None,
        "seed": 0,
        **changes,
    }
    preset = PRESETS[model]
    return PresetLayer(parse_layer("attn0", preset.layers, matrix), preset, **settings)


def _measure(path, workload: Workload, configs=ROWS, learners=8, iterations=1, bits=3):
    settings = AblationSettings(
        layer="attn0",
        bits=bits,
        iterations=iterations,
        learners=learners,
        configs=tuple(configs),
        seed=0,
    )
    told: list[str] = []
    with Tracer(path) as tracer:
        result = run_ablation(workload, settings, tracer, told.append)
    assert told[0] == f"row {configs[0]}"
    return result, {row["name"]: row for row in result["rows"]}


def _tables(workload: PresetLayer, itemsize: int = 2) -> int:
    """Bytes of one table: a row per distinct 16-bit pattern of the weight."""
    weight = workload.weight(workload.matrices[0])
    distinct = weight.detach().view(torch.int16).unique().numel()
    return distinct * 8 * itemsize


@pytest.mark.parametrize("learners", [8, 7, 1])
def test_host_bytes_are_those_of_the_papers_derivation(tmp_path, learners: int) -> None:
    workload = _preset()
    _, rows = _measure(tmp_path / "run", workload, learners=learners)
    n = 256 * 256
    weight, map_, table = 2 * n, 16 * n, _tables(workload)
    share = -(-n // learners)  # learner 0 holds the larger share where they do not divide
    assert {name: row["host_bytes"] for name, row in rows.items()} == {
        "none": 6 * map_ + 2 * weight,
        "M": 2 * map_ + weight,
        "M+S": share * (2 * 16 + 2),
        "M+U": 2 * (weight + table) + weight,
        "M+U+S": share * (2 * 2 + 2) + 2 * table,
        "U": 6 * (weight + table) + 2 * weight,
        "S": share * (6 * 16 + 2 * 2),
        "U+S": share * (6 * 2 + 2 * 2) + 6 * table,
    }
    assert all(row["d2h_bytes"] == row["host_bytes"] for row in rows.values())
    assert all(row["saved_tensors"] == 8 and row["small_tensors"] == 4 for row in rows.values())
    for name in ("M+S", "S"):
        plain = rows[name.removesuffix("+S") if "+" in name else "none"]
        assert rows[name]["host_bytes"] + rows[name]["peer_bytes"] == plain["host_bytes"]


@pytest.mark.slow
def test_table_2_at_the_papers_size(tmp_path) -> None:
    workload = _preset("llama-7b")
    result, rows = _measure(
        tmp_path / "run", workload, configs=("none", "M", "M+S", "M+U", "M+U+S")
    )
    table = _tables(workload)
    assert result["shape"] == [4096, 4096]
    assert rows["none"]["host_bytes"] == 1600 * MIB
    assert rows["M"]["host_bytes"] == 544 * MIB
    assert rows["M+S"]["host_bytes"] == 68 * MIB
    assert rows["M+U"]["host_bytes"] == 96 * MIB + 2 * table <= 98.5 * MIB
    assert rows["M+U+S"]["host_bytes"] == 12 * MIB + 2 * table <= 12.5 * MIB
    assert all(row["max_hops"] <= 4 for row in rows.values())
    assert len({row["grad_rel_error"] for row in rows.values()}) == 1


def test_every_row_has_the_same_gradient_and_every_duplicate_is_found(tmp_path) -> None:
    _, rows = _measure(tmp_path / "run", _preset(), iterations=2)
    assert len({row["grad_rel_error"] for row in rows.values()}) == 1
    assert 0 < rows["none"]["grad_rel_error"] < 0.1
    for name, row in rows.items():
        found = sum(row["hops"].values())
        assert found == sum(row["finders"].values()) == (10 if "M" in name else 0)
        assert row["max_hops"] <= 4


def test_the_fused_row_keeps_tables_only_and_is_nearer_to_float64(tmp_path) -> None:
    for iterations in (1, 4):
        path = tmp_path / str(iterations)
        result, rows = _measure(path, _preset(), configs=("none", "fused"), iterations=iterations)
        fused = rows["fused"]
        assert result["forms"]["fused"] == {"q_proj": "fused"}
        assert 0 < fused["host_bytes"] <= MIB, "independent of N and of the iterations"
        assert fused["device_bytes"] < 1024
        assert fused["grad_rel_error"] < rows["none"]["grad_rel_error"]


def test_a_float32_gradient_is_close_to_the_float64_reference(tmp_path) -> None:
    _, rows = _measure(tmp_path / "run", _preset(dtype=torch.float32), configs=("none", "M+U"))
    assert rows["none"]["grad_rel_error"] < 1e-4
    # no 16-bit weight, nothing to uniquify: U leaves the tensors whole
    assert rows["M+U"]["host_bytes"] == 256 * 256 * (2 * 32 + 4)


def test_all_matrices_of_a_layer(tmp_path) -> None:
    result, rows = _measure(tmp_path / "run", _preset(matrix="all"), configs=("none", "M"))
    assert (result["matrix"], result["shape"]) == ("all", None)
    assert [m["name"] for m in result["matrices"]] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert rows["none"]["host_bytes"] == 4 * 256 * 256 * 100
    assert rows["M"]["saved_tensors"] == 32


def test_the_file_holds_what_was_returned_and_the_run_opens(tmp_path) -> None:
    result, _ = _measure(tmp_path / "run", _preset(), configs=("none", "M"))
    with open_run(tmp_path / "run") as run:
        assert run.ablation == json.loads(json.dumps(result))
        assert run.closed and run.note is None
        assert [step.name for step in run.steps] == ["none", "M"]
        totals = run.sql(
            "select name, sum(host_bytes) h from saves join steps using (step) group by 1"
        ).to_pylist()
    assert {row["name"]: row["h"] for row in totals} == {
        row["name"]: row["host_bytes"] for row in result["rows"]
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 0}, "bits 0: must be from 1 to 8"),
        ({"bits": 9}, "bits 9: must be from 1 to 8"),
        ({"iterations": 0}, "iterations 0"),
        ({"learners": 0}, "learners 0"),
        ({"configs": ("none", "X")}, r"configs X: unknown; valid are none, M, "),
        ({"configs": ("M", "none", "M")}, "configs M: given twice"),
        ({"configs": ()}, r"configs \(none given\)"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message: str) -> None:
    good = {
        "layer": "attn0",
        "bits": 3,
        "iterations": 1,
        "learners": 8,
        "configs": ("none",),
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        AblationSettings(**{**good, **changes})


def _checkpoint(realdata, matrix: str | None = None) -> CheckpointLayer:
    return CheckpointLayer(
        str(realdata / "models/stories260K"),
        "attn0",
        matrix,
        text=str(realdata / "text/tinystories_train.txt"),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        bits=3,
        tau=None,
        seed=0,
    )


def _step_under_plain_hooks(workload: CheckpointLayer) -> tuple[list[int], int]:
    """Bytes of every save, and of their distinct storages, by nothing but two hooks."""
    logical: list[int] = []
    storages: dict[torch.UntypedStorage, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        logical.append(tensor.numel() * tensor.element_size())
        storages[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        workload.forward()
    workload.backward()
    return logical, sum(storages.values())


@pytest.mark.realdata
def test_a_real_step_saves_what_plain_hooks_count(tmp_path, realdata) -> None:
    from edkm.dkm import dense_dkm

    workload = _checkpoint(realdata)
    _, rows = _measure(tmp_path / "run", workload, configs=("none", "M"))
    for matrix in workload.matrices:
        matrix.cluster = lambda m, w: dense_dkm(w, m.centroids, tau=m.tau, iterations=1).clustered
    logical, unique = _step_under_plain_hooks(workload)
    with open_run(tmp_path / "run") as run:
        traced = run.sql("select logical_bytes from saves where step = 0 order by save_id")[
            "logical_bytes"
        ].to_pylist()
        storages = run.sql(
            "select sum(b) s from (select storage_id, any_value(storage_bytes) b "
            "from saves where step = 0 group by 1)"
        )["s"].to_pylist()
    assert traced == logical
    assert storages == [unique]
    assert rows["none"]["saved_tensors"] == 32
    sizes = [64 * 64, 32 * 64, 32 * 64, 64 * 64]
    assert rows["none"]["host_bytes"] == 100 * sum(sizes)
    assert rows["M"]["host_bytes"] == 34 * sum(sizes)


@pytest.mark.realdata
def test_every_switch_leaves_a_real_steps_gradients_as_they_are(realdata, tmp_path) -> None:
    from edkm.dkm import dense_dkm
    from edkm.saved import SavedTensorPolicy
    from profiler.ablation import use

    found: list[list[torch.Tensor]] = []
    for switches in (row for row in CONFIGS.values() if not row.fused):
        workload = _checkpoint(realdata)
        shard = 3 if switches.shard else None
        use(
            workload,
            dense_dkm,
            SavedTensorPolicy(
                marshal=switches.marshal, uniquify=switches.uniquify, shard=shard, min_bytes=0
            ),
            iterations=2,
        )
        workload.forward()
        workload.backward()
        found.append([p.grad for p in workload.model.parameters() if p.grad is not None])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
