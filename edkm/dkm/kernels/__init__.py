"""The passes over a weight: histogram, look-up, segment sum, gradient; and those that stream.

Contract: four functions on flat, contiguous 16-bit tensors, one of three implementations behind
them: Triton on CUDA, compiled CPU loops where numba is installed, chunked torch operations
otherwise. All give the same bits, but for the order in which a segment sum adds. The streaming
form's passes have Triton kernels on CUDA and compiled loops on the CPU; for points that have
neither ``updates`` loops over tiles.
Boundary: no clustering here; a pass reads a weight, a gradient and tables or centroids.
"""

from edkm.dkm.kernels.choice import Passes, passes_for

__all__ = ["Passes", "passes_for"]
