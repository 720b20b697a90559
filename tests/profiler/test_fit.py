"""The prediction of memory, against what is really needed, and its refusal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from profiler import fit
from profiler.ablation_rows import AblationSettings


def _settings(configs: tuple[str, ...] = ("none",), bits: int = 3) -> AblationSettings:
    return AblationSettings(
        layer="attn0", bits=bits, iterations=1, learners=8, configs=configs, seed=0
    )


def test_the_prediction_grows_with_what_is_saved() -> None:
    size = 4096 * 4096
    rows = [fit.estimate_bytes(size, 2, _settings((name,))) for name in ("none", "M", "M+U")]
    assert rows == sorted(rows, reverse=True)
    assert fit.estimate_bytes(size, 2, _settings(bits=4)) > 1.5 * rows[0]


def test_too_little_memory_is_refused_with_a_smaller_preset(monkeypatch) -> None:
    monkeypatch.setattr(fit, "available_memory", lambda: 2 << 30)
    with pytest.raises(
        ValueError, match=r"needs about [34]\.\d GiB, 2\.0 GiB are available"
    ) as error:
        fit.check_memory(4096 * 4096, 2, _settings(), torch.device("cpu"))
    assert "try --model llama-1b" in str(error.value)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'quantum': cannot be used"):
        fit.pick_device("quantum")


_MEASURE = """
import json, sys, torch
from profiler.ablation import run_ablation, warm_up
from profiler.ablation_rows import AblationSettings
from profiler.fit import estimate_bytes
from profiler.layers import PRESETS, parse_layer
from profiler.memory import PeakRss
from profiler.tracer import Tracer
from profiler.workloads import PresetLayer
settings = AblationSettings(
    layer="attn0", bits=3, iterations=1, learners=8, configs=("none", "M+S"), seed=0)
cpu = torch.device("cpu")
with PeakRss() as peak:
    workload = PresetLayer(parse_layer("attn0", 22, None), PRESETS["llama-1b"],
        dtype=torch.bfloat16, device=cpu, bits=3, tau=None, seed=0)
    with Tracer(sys.argv[1]) as tracer:
        run_ablation(workload, settings, tracer, lambda what: None)
print(json.dumps([peak.peak_bytes, estimate_bytes(2048 * 2048, 2, settings)]))
"""


def test_the_prediction_is_above_the_measured_peak_and_below_twice_it(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    measured, predicted = json.loads(done.stdout)
    assert measured < predicted < 2 * measured
