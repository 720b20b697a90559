"""The method pages' figures: clustering is edkm's own, results are read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import torch

from dashboard.charts.clustering import (
    attention_chart,
    attention_records,
    histogram_chart,
    path_records,
    paths_chart,
    weight_records,
)
from dashboard.charts.quality import axes, quality_chart, quality_records
from dashboard.lessons.centroids import SHAPES, attention, cluster, weight_of
from dashboard.quality import Quality, find_results
from dashboard.quality_points import levels, points
from dashboard.theme import METHOD_COLOURS, method_colour
from edkm.dkm import default_tau, dense_dkm, initial_centroids
from profiler.reports.units import MIB

ROW = {"method": "gptq", "bits": 3, "group_size": 64, "size_bytes": 2 * MIB, "ppl": 6.5,
       "ppl_dense": 5.0, "bits_per_weight": 3.25, "seed": 0, "status": "ok", "error": None,
       "tasks": {"piqa": 0.5}, "seconds": 3.0, "peak_bytes": MIB}  # fmt: skip


def test_updates_one_by_one_end_where_one_call_ends() -> None:
    seen = cluster("bell", 3, 1.0, 4)
    weight = weight_of("bell")
    tau = default_tau(weight, 8)
    start = initial_centroids(weight, 8)
    whole = dense_dkm(weight, start, tau=tau, iterations=4)
    assert torch.allclose(torch.tensor(seen.paths[-1]), whole.centroids.flatten(), atol=1e-6)
    assert seen.paths[0] == pytest.approx(start.flatten().tolist())
    assert seen.tau == tau


def test_the_attention_map_is_the_one_that_made_the_weights() -> None:
    weight = weight_of("tails")
    tau = default_tau(weight, 8, multiple=3.0)
    result = dense_dkm(weight, initial_centroids(weight, 8), tau=tau, iterations=1)
    again = dense_dkm(weight, initial_centroids(weight, 8), tau=tau, iterations=1)
    assert torch.equal(result.centroids, again.centroids)
    start = initial_centroids(weight, 8)
    mixed = attention(weight.flatten(), start, tau) @ result.centroids
    assert torch.allclose(mixed.view_as(weight), result.clustered, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_is_counted_and_hard_weights_are_few(shape: str) -> None:
    seen = cluster(shape, 2, 1.0, 3)
    assert sum(seen.counts) == sum(seen.sizes) == weight_of(shape).numel()
    assert seen.distinct[2] <= 4 < seen.distinct[0]
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in seen.attention)


def test_a_low_temperature_decides() -> None:
    hot, cold = cluster("bell", 3, 10.0, 5), cluster("bell", 3, 0.03, 5)
    assert abs(cold.soft_error - cold.hard_error) < 0.01 < hot.hard_error - hot.soft_error
    assert cold.distinct[1] < hot.distinct[1]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from bell, tails, two"):
        weight_of("round")


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_the_pictures_of_a_clustering_are_valid(ground: Any) -> None:
    seen = cluster("two", 3, 1.0, 3)
    for chart in (histogram_chart, paths_chart, attention_chart):
        alt.Chart.from_dict(chart(seen, ground).to_dict())
    assert len(path_records(seen)) == 4 * 8
    assert len(attention_records(seen)) == 8 * len(seen.points)
    assert sum(r["count"] for r in weight_records(seen)) == 2 * weight_of("two").numel()


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_comparison_is_read_with_its_failures(tmp_path: Path) -> None:
    failed = {"method": "awq", "bits": 3, "status": "failed", "error": "no such layer", "ppl": None}
    write(
        tmp_path / "peers" / "comparison.json", {"settings": {"model": "m"}, "rows": [ROW, failed]}
    )
    (found,) = find_results(tmp_path)
    assert found.name == "peers/comparison.json"
    good, bad = found.rows
    assert (good.ppl, good.bits_per_weight, good.tasks) == (6.5, 3.25, {"piqa": 0.5})
    assert (bad.ppl, bad.error) == (None, "no such layer")
    (point,) = points(found.rows)
    assert point.rows == (good,) and point.name == "GPTQ, 3 bits"


def test_metrics_of_a_training_run_are_read(tmp_path: Path) -> None:
    metrics = {"perplexity": {"after_hard": 5.3}, "clustering": {"layers": 1}, "file_bytes": 9,
               "tuning_s": 2.0, "config": {"bits": 3, "seed": 1}}  # fmt: skip
    write(tmp_path / "run" / "metrics.json", metrics)
    write(tmp_path / "plain" / "metrics.json",
          {**metrics, "clustering": {}, "perplexity": {"after": 4.5}})  # fmt: skip
    rows = {each.name: each.rows[0] for each in find_results(tmp_path)}
    assert rows["run/metrics.json"] == Quality(
        method="edkm", bits=3.0, ppl=5.3, size_bytes=9, seconds=2.0, seed=1
    )
    assert (rows["plain/metrics.json"].method, rows["plain/metrics.json"].ppl) == ("dense", 4.5)


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": [7]}', '{"rows": 3}', '{"rows": [{}]}'])
def test_a_broken_result_is_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content)
    (found,) = find_results(tmp_path)
    assert not found.rows
    assert "cannot be read" in (found.problem or "")


def test_results_are_never_read_from_outside(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "runs"
    write(outside / "comparison.json", {"rows": [ROW]})
    root.mkdir()
    (root / "comparison.json").symlink_to(outside / "comparison.json")
    (root / "linked").symlink_to(outside)
    assert find_results(root) == []
    assert find_results(tmp_path / "missing") == []


def test_points_have_the_axis_that_the_rows_have() -> None:
    rows = [
        Quality(method="edkm", bits=3, ppl=5.0, ppl_dense=6.0, size_bytes=MIB),
        Quality(method="dense", ppl=4.5, ppl_dense=6.0, size_bytes=9 * MIB),
        Quality(method="rtn", bits=4),
    ]
    found = points(rows)
    assert axes(found) == ["bits", "size_bytes"]
    (one,) = quality_records(found, "bits")
    assert (one["x"], one["perplexity"]) == (3.0, 5.0)
    assert [r["x"] for r in quality_records(found, "size_bytes")] == [1.0, 9.0]
    dense = levels(rows)
    assert dense == {"before tuning": 6.0, "tuned": 4.5}
    for ground in ("light", "dark"):
        spec = quality_chart(found, dense, "size_bytes", ground).to_dict()  # type: ignore[arg-type]
        alt.Chart.from_dict(spec)
        assert "dense, tuned: 4.5" in json.dumps(spec)
        assert "dense, before tuning: 6" in json.dumps(spec)


def test_seeds_of_one_setting_are_one_point() -> None:
    rows = [
        Quality(method="edkm-allocated", bits=3, ppl=ppl, size_bytes=size, seed=seed)
        for seed, (ppl, size) in enumerate([(5.0, 100), (7.0, 102)])
    ]
    rows += [Quality(method="tuned+gptq@4", bits=3, ppl=9.0, size_bytes=50)]
    ours, peer = points(rows)
    assert (ours.mean("ppl"), ours.ends, ours.mean("size_bytes")) == (6.0, (5.0, 7.0), 101)
    assert ours.mean("seconds") is None
    assert ours.name == "eDKM (allocated), bytes of 3"
    assert peer.name == "tuned, then GPTQ, embeddings 4, 3 bits"
    assert [(r["of"], r["seeds"]) for r in quality_records([ours, peer], "size_bytes")] == [
        ("given", 2), ("tuned", 1)
    ]  # fmt: skip


def test_a_method_has_a_colour_of_its_own() -> None:
    assert method_colour("edkm-allocated") == method_colour("edkm")  # two forms of one method
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS) - 2
    assert method_colour("tuned+gptq@4") == method_colour("gptq")
    assert method_colour("new") not in METHOD_COLOURS.values()
