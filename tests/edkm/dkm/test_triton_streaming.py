"""The streaming form on its Triton kernels, in Triton's interpreter, against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edkm.dkm import (
    channel_scale,
    default_tau,
    gradient_reference,
    initial_centroids,
    streaming_dkm,
)
from edkm.dkm import points as points_module
from edkm.dkm.kernels.choice import Assignment, StreamingPasses, streaming_passes_for
from edkm.dkm.settings import Rule

pytest.importorskip("triton")


@pytest.fixture
def launches(
    interpreted: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Makes the kernels serve CPU tensors; the names of those that ran."""
    kernels, ran = interpreted("triton_streaming"), []
    called = kernels._Launch.__call__

    def count(self: object, kernel: object, *tensors: torch.Tensor) -> None:
        ran.append(kernel.fn.__name__)
        called(self, kernel, *tensors)

    monkeypatch.setattr(kernels._Launch, "__call__", count)
    monkeypatch.setattr(kernels, "_PROGRAMS", 2)  # so that programs walk several blocks
    monkeypatch.setattr(points_module, "streaming_passes_for", lambda *key: kernels)
    return ran


def make(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * 0.02).to(dtype)


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


# one row, tails of a block, several blocks a program, clusters that are no power of two
@pytest.mark.parametrize(
    ("rows", "columns", "groups", "dim", "clusters", "dtype", "distance", "scaled"),
    [
        (1, 1, 1, 1, 1, F32, "squared", False),
        (1, 9, 1, 3, 3, F32, "squared", True),
        (1, 9, 1, 3, 3, F32, "euclidean", False),
        (3, 700, 1, 1, 8, F32, "squared", False),
        (3, 500, 1, 1, 8, F32, "euclidean", True),
        (61, 46, 1, 2, 5, F32, "euclidean", False),
        (5, 32, 1, 4, 33, F32, "squared", True),
        (6, 132, 6, 3, 7, F32, "squared", True),
        (6, 132, 6, 3, 7, F32, "euclidean", False),
        (8, 150, 2, 1, 9, BF16, "squared", True),
        (4, 90, 1, 2, 16, F16, "squared", False),
    ],
)
def test_equals_the_float64_gradient(
    launches: list[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    columns: int,
    groups: int,
    dim: int,
    clusters: int,
    dtype: torch.dtype,
    distance: str,
    scaled: bool,
) -> None:
    weight = make(rows, columns, seed=0, dtype=dtype).requires_grad_()
    grad = make(rows, columns, seed=1, dtype=dtype)
    scale = channel_scale(weight) if scaled else None
    spread = torch.ones(rows, 1).double() if scale is None else scale.double().unsqueeze(1)
    inner = (weight.detach().double() / spread).view(groups, -1)
    above = (grad.double() * spread).view(groups, -1)
    start = torch.stack([initial_centroids(block, clusters, dim) for block in inner]).float()
    # soft: a hard tau multiplies the rounding of float32 sums, whoever adds them
    tau = 8 * default_tau(inner, clusters, dim, distance=distance)

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        result = streaming_dkm(weight, start, tau=tau, iterations=2, distance=distance, scale=scale)
        (pulled,) = torch.autograd.grad(result.clustered, weight, grad)
        return result.clustered.detach(), pulled, result.centroids

    got = run()
    assert launches == ["_sums", "_sums", "_output", "_pull_output", *["_pull_update"] * 2]
    for kernels in ("streaming_passes_for", "row_passes_for"):
        monkeypatch.setattr(points_module, kernels, lambda *key: None)
    tiled = run()
    assert len(launches) == 6
    references = [
        gradient_reference(
            w, c.double(), g, tau=tau, iterations=2, distance=distance, with_clustered=True
        )
        for w, c, g in zip(inner, start, above, strict=True)
    ]
    soft = torch.stack([r.clustered for r in references]).view(rows, columns) * spread
    exact = torch.stack([r.grad_weight for r in references]).view(rows, columns) / spread
    centroids = torch.stack([r.centroids for r in references])
    # the gradient's terms of few weights may cancel: measured against what came in
    sizes = (soft.norm(), torch.maximum(exact.norm(), grad.double().norm()), centroids.norm())
    for ours, torchs, expected, size in zip(
        got, tiled, (soft, exact, centroids), sizes, strict=True
    ):
        assert ours.dtype == torchs.dtype
        # beside the rounding of the dtype, only what float32 attention costs anyhow; and the
        # interpreter adds a block's rows one after another, in float32
        inherent = (torchs.double() - expected).norm() / size
        bound = torch.finfo(ours.dtype).eps / 2 + 2 * inherent + 1e-5
        assert (ours.double() - expected).norm() / size < bound


def test_equal_inputs_give_equal_bits_and_stop_alike(launches: list[str]) -> None:
    weight = make(30, 50, seed=0).requires_grad_()
    grad, start = make(30, 50, seed=1), initial_centroids(weight, 6)
    runs = []
    for _ in range(2):
        result = streaming_dkm(weight, start, tau=1e-5, max_iter=6, eps=4e-3)
        runs.append((result.clustered, *torch.autograd.grad(result.clustered, weight, grad)))
    assert 1 < result.iterations < 6
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_an_update_that_did_not_take_place_adds_nothing(
    interpreted: Callable[[str], ModuleType],
) -> None:
    rows, out = make(1, 70, 2, seed=0), make(1, 70, 2, seed=1)
    c, to_total, to_mass = make(1, 3, 2, seed=2), make(1, 3, 2, seed=3), make(1, 3, 1, seed=4)
    kernels, before = interpreted("triton_streaming"), out.clone()
    to = Assignment(rows, None, c, Rule(1e-3, True))
    for active in (torch.zeros(()), torch.ones(())):
        kernels.pull_update(to, to_total, to_mass, active, out)
        assert torch.equal(out, before) == (active == 0)


CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "work", "clusters", "dim", "served"),
    [
        (CUDA, torch.float32, 8, 1, True),
        (CUDA, torch.float32, 256, 4, True),
        (CUDA, torch.float64, 8, 1, False),
        (CUDA, torch.float32, 257, 1, False),
        (CUDA, torch.float32, 8, 5, False),
        (CPU, torch.float32, 8, 1, False),
    ],
)
def test_who_is_served(
    device: torch.device, work: torch.dtype, clusters: int, dim: int, served: bool
) -> None:
    passes = streaming_passes_for(device, work, clusters, dim)
    assert (passes is not None) == served
    assert not served or isinstance(passes, StreamingPasses)


COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from edkm.dkm.kernels import triton_streaming as module

counts = {"n", "channels", "run", "programs"}
sums = {"total", "mass", "to_c", "to_updated"}
settings = dict(K=5, KP=8, D=3, DP=4, SQUARED=False, SCALED=True, BLOCK=256)
for kernel in (module._sums, module._output, module._pull_output, module._pull_update):
    names = kernel.arg_names
    kinds = {
        name: "constexpr" if name in settings else "i32" if name in counts else "fp32"
        if name == "factor" else "*fp64" if name in sums and name != "to_total" else "*fp32"
        for name in names
    }
    fixed = {(names.index(name),): value for name, value in settings.items() if name in names}
    built = compile(ASTSource(kernel, kinds, fixed), target=GPUTarget("cuda", 80, 32))
    assert "fma" in built.asm["ptx"]
"""


def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    # Triton's own assembler needs no GPU. Apart from this process, which may interpret.
    surroundings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    surroundings["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", COMPILED],
        capture_output=True, text=True, timeout=300, env=surroundings,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [1, 3])
def test_on_a_gpu(dim: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weight, grad = make(1023, 3000, seed=0), make(1023, 3000, seed=1)
    start, tau = initial_centroids(weight, 8, dim), default_tau(weight, 8, dim)
    there = weight.cuda().requires_grad_()
    result = streaming_dkm(there, start.cuda(), tau=tau, iterations=2)
    (pulled,) = torch.autograd.grad(result.clustered, there, grad.cuda())
    expected = gradient_reference(weight, start, grad, tau=tau, iterations=2).grad_weight
    assert float((pulled.cpu().double() - expected).norm() / expected.norm()) < 1e-5
