"""k-means updates over many points, a tile at a time, forwards and backwards.

Contract: each of the ``g`` groups of ``Points`` has its own ``[k, d]`` codebook. Forwards gives
the list of centroids of all updates; backwards gives exact gradients from that list alone,
recomputing the attention. Where there are kernels for the points they do it, else it goes tile by
tile. Sums over tiles are accumulated in float64. On a GPU convergence is decided by the device:
nothing here waits for it.
Boundary: no autograd and no saved tensors; the operators of ``fused`` and ``streaming`` are that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edkm.dkm import tiles
from edkm.dkm.kernels.choice import RowPasses
from edkm.dkm.points import Points
from edkm.dkm.settings import Rule


@dataclass(frozen=True)
class Path:
    """The centroids of one clustering: all that backward needs besides the points."""

    states: Float[Tensor, "s g k d"]  # s = steps + 1; after convergence the last one repeats
    masses: Float[Tensor, "t g k 1"]  # sum of the attention in each update
    ran: Tensor  # number of updates that took place, a scalar on the points' device

    def last_pair(self) -> tuple[Tensor, Tensor]:
        """(C that the last attention was taken with, C' it gave)."""
        before = self.states.index_select(0, (self.ran - 1).reshape(1)).squeeze(0)
        return before, self.states[-1]


def run_updates(
    points: Points, start: Float[Tensor, "g k d"], rule: Rule, steps: int, eps: float | None
) -> Path:
    """Eq. 1-3, ``steps`` times, or until no centroid of any group moves more than ``eps``."""
    states, masses = [start], []
    done = torch.zeros((), dtype=torch.bool, device=start.device)
    ran = torch.zeros((), dtype=torch.int64, device=start.device)
    wait_free = start.device.type != "cpu"
    for _ in range(steps):
        total, mass = _sums(points, states[-1], rule)
        updated = torch.where(done, states[-1], total / mass)
        ran = ran + ~done
        if eps is not None:
            done = done | ((updated - states[-1]).abs().max() <= eps)
        states.append(updated)
        masses.append(mass)
        if not wait_free and bool(done):
            break
    missing = steps + 1 - len(states)
    states += [states[-1]] * missing
    masses += [masses[-1]] * missing
    return Path(torch.stack(states), torch.stack(masses), ran)


def _sums(points: Points, c: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    passes = points.passes(c) or points.row_passes(c)
    if passes is not None:
        whole = passes.sums(points.assigned(c, rule))
        return whole[0].to(c.dtype), whole[1].to(c.dtype)
    total = torch.zeros(c.shape, dtype=torch.float64, device=c.device)
    mass = total.new_zeros(*c.shape[:2], 1)
    for at in points.tiles(c.shape[1]):
        tile_total, tile_mass = tiles.sums(points.x(at), points.weights(at), c[at[0]], rule)
        total[at[0]].add_(tile_total)
        mass[at[0]].add_(tile_mass)
    return total.to(c.dtype), mass.to(c.dtype)


def soft_output(
    points: Points,
    path: Path,
    rule: Rule,
    out: Float[Tensor, "g n d"],
    grad: Float[Tensor, "g n d"] | None = None,
) -> Tensor | None:
    """Eq. 4: W~ into ``out``, rounded to its dtype.

    Given ``grad`` = dL/dW~ it returns what ``pull`` takes as ``to_updated``, where both come of
    one look at the points; else None.
    """
    before, updated = path.last_pair()
    rows = points.row_passes(updated)
    if rows is not None:
        found = rows.output(points.assigned(before, rule), updated.contiguous(), out, grad)
        return None if grad is None else found
    passes = points.passes(updated)
    if passes is not None:
        passes.output(points.assigned(before, rule), updated.contiguous(), out)
        return None
    for at in points.tiles(updated.shape[1]):
        g = at[0]
        clustered = tiles.output(points.x(at), before[g], updated[g], rule)
        out[at] = points.rescale(clustered, at, power=1)
    return None


def pull(
    points: Points,
    path: Path,
    rule: Rule,
    grad: Float[Tensor, "g n d"],
    out: Float[Tensor, "g n d"],
    to_updated: Tensor | None = None,
) -> None:
    """Eq. 5-8: dL/dx for ``grad`` = dL/dW~ into ``out``, rounded to its dtype once.

    ``out`` may be ``grad``; ``to_updated`` is what ``soft_output`` returned for it.
    """
    rows = points.row_passes(path.states[0])
    once = rows is not None and int(path.ran) == 1
    into = out if once or out.dtype == points.work else torch.empty_like(out, dtype=points.work)
    if rows is not None:
        _pull_rows(rows, points, path, rule, grad, into, to_updated)
    else:
        pulls = pull_output(points, path, rule, grad, None, into)
        pull_updates(points, path, rule, *pulls, into)
    if into is not out:
        out.copy_(into)


def _pull_rows(
    passes: RowPasses,
    points: Points,
    path: Path,
    rule: Rule,
    grad: Tensor,
    out: Tensor,
    to_updated: Tensor | None,
) -> None:
    """The output and the last update have one attention, so they are pulled back together."""
    before, updated = path.last_pair()
    if to_updated is None:
        to_updated = passes.output(points.assigned(before, rule), updated, None, grad)
    pull = to_updated
    for step in reversed(range(int(path.ran))):
        share = pull.to(before.dtype) / path.masses[step]
        to_mass = -(share * path.states[step + 1]).sum(2, keepdim=True)
        to = points.assigned(path.states[step], rule)
        last = step + 1 == int(path.ran)
        mixed, above = (updated, grad) if last else (None, None)
        pull = passes.pull(to, mixed, above, share, to_mass, out)


def pull_output(
    points: Points,
    path: Path,
    rule: Rule,
    grad: Float[Tensor, "g n d"],
    multiplicity: Float[Tensor, "g n"] | None,
    out: Float[Tensor, "g n d"],
) -> tuple[Tensor, Tensor]:
    """Eq. 5 over all tiles: dL/dx for ``grad`` = dL/dW~ into ``out``, in the compute dtype.

    Returns (dL/dC, dL/dC') through the output alone, rows counted ``multiplicity`` times.
    """
    before, updated = path.last_pair()
    passes = points.passes(updated)
    if passes is not None and multiplicity is None:
        to = points.assigned(before, rule)
        pulls = passes.pull_output(to, updated.contiguous(), grad, out)
        return pulls[0].to(before.dtype), pulls[1].to(before.dtype)
    to_before = torch.zeros(before.shape, dtype=torch.float64, device=before.device)
    to_updated = torch.zeros_like(to_before)
    for at in points.tiles(updated.shape[1]):
        g = at[0]
        above = points.rescale(grad[at].to(points.work), at, power=1)
        times = None if multiplicity is None else multiplicity[at]
        to_x, to_c, to_u = tiles.pull_output(
            points.x(at), above, times, before[g], updated[g], rule
        )
        out[at] = points.rescale(to_x, at, power=-1)
        to_before[g].add_(to_c)
        to_updated[g].add_(to_u)
    return to_before.to(before.dtype), to_updated.to(before.dtype)


def pull_updates(
    points: Points,
    path: Path,
    rule: Rule,
    to_before: Tensor,
    to_updated: Tensor,
    out: Float[Tensor, "g n d"],
) -> None:
    """Eq. 6-8: all updates backwards; their shares of dL/dx are added to ``out``.

    ``to_before`` and ``to_updated`` are what the output alone sends to the last two centroids.
    """
    pull = to_updated
    on_cpu = pull.device.type == "cpu"
    for step in reversed(range(path.masses.shape[0])):
        if on_cpu and step >= int(path.ran):
            continue
        share = pull / path.masses[step]
        to_mass = -(share * path.states[step + 1]).sum(2, keepdim=True)
        active = (step < path.ran).to(pull.dtype)  # 0 for the repeats after convergence
        before = _pull_update(points, path.states[step], rule, share, to_mass, active, out)
        before = before + to_before * (step == path.ran - 1)
        pull = torch.where(step < path.ran, before, pull)


def _pull_update(
    points: Points,
    c: Tensor,
    rule: Rule,
    share: Tensor,
    to_mass: Tensor,
    active: Tensor,
    out: Tensor,
) -> Tensor:
    passes = points.passes(c)
    if passes is not None:
        to = points.assigned(c, rule)
        return passes.pull_update(to, share.contiguous(), to_mass, active, out).to(c.dtype)
    before = torch.zeros(c.shape, dtype=torch.float64, device=c.device)
    for at in points.tiles(c.shape[1]):
        g = at[0]
        x, times = points.x(at), points.weights(at)
        to_x, to_c = tiles.pull_update(x, times, c[g], share[g], to_mass[g], rule)
        importance = points.importance(at)
        if importance is not None:
            to_x.mul_(importance.unsqueeze(2))
        out[at].add_(points.rescale(to_x.mul_(active), at, power=-1))
        before[g].add_(to_c)
    return before.to(c.dtype)
