"""A model of clustered layers under torch.compile: one graph, and what eager computes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

COMPILED = """
import copy
import sys
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from edkm.dkm import DKMConfig
from edkm.nn import cluster_linears

torch.set_num_threads(1)
torch.manual_seed(0)
dtype = getattr(torch, sys.argv[2])
exact = sys.argv[1] == "aot_eager"
model = nn.Sequential(nn.Linear(160, 144, dtype=dtype), nn.ReLU(), nn.Linear(144, 128, dtype=dtype))
cluster_linears(model, DKMConfig(bits=3, iterations=2))
x = torch.randn(5, 160, dtype=dtype)

def step(run, model):
    out = run(x)
    out.square().mean().backward()
    results = [out.detach(), *(p.grad for p in model.parameters()), model[0].dkm.centroids.clone()]
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.01 * p.grad)
    model.zero_grad()
    return results

step(model, model)  # starts the centroids
twin = copy.deepcopy(model)
counter = CompileCounterWithBackend(sys.argv[1])
compiled = torch.compile(twin, backend=counter, fullgraph=True)
for _ in range(3):
    for mine, theirs in zip(step(model, model), step(compiled, twin), strict=True):
        if exact:
            assert torch.equal(mine, theirs)
        else:  # other kernels may add in another order
            bound = 4 * torch.finfo(dtype).eps
            size = float(mine.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound * size)
assert counter.frame_count == 1, counter.frame_count
"""
HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()
COMPILER = HEADERS and any(map(shutil.which, ("g++", "c++", "clang++")))


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("aot_eager", "bfloat16"),
        ("aot_eager", "float32"),
        *([pytest.param("inductor", "bfloat16", marks=pytest.mark.slow)] if COMPILER else []),
    ],
)
def test_compiles_to_one_graph_that_equals_eager(backend: str, dtype: str) -> None:
    # In a process of its own: the compiler cannot trace the tests' run-time type checks.
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, backend, dtype],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
