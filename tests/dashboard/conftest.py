"""Small runs that our own tracer records, once for all tests of the dashboard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Two steps of a small model whose activations go to the host and back.
SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
from edkm.saved import offload

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm(x)
        x = x + torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1) @ y
        return x + self.down(F.gelu(self.up(x)))

torch.manual_seed(0)
model = nn.Sequential(Block(64), Block(64), nn.Linear(64, 8))
optimizer = torch.optim.AdamW(model.parameters())
for step in range(2):
    x, y = torch.randn(4, 64, 64), torch.randint(0, 8, (256,))
    if step:
        with offload(model):
            loss = F.cross_entropy(model(x).flatten(0, 1), y)
    else:
        loss = F.cross_entropy(model(x).flatten(0, 1), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def trace(*arguments: str) -> None:
    """Runs the command as a person would."""
    command = [sys.executable, "-m", "profiler.trace", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: `attn0`, an ablation, and `script`, a traced program."""
    root = tmp_path_factory.mktemp("recorded") / "runs"
    script = root.parent / "script.py"
    script.write_text(SCRIPT)
    layer = ["--layer", "attn0", "--model", "llama-tiny", "--no-pictures"]
    trace(*layer, "--out", str(root / "attn0"))
    trace("--out", str(root / "script"), "--", str(script))
    return root
