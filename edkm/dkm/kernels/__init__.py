"""The passes over a weight: histogram, look-up, segment sum, gradient.

Contract: four functions on flat, contiguous 16-bit tensors, one of three implementations behind
them: Triton on CUDA, compiled CPU loops where numba is installed, chunked torch operations
otherwise. All give the same bits, but for the order in which a segment sum adds.
Boundary: no clustering here; a pass reads a weight, a gradient and tables of 65,536 rows.
"""

from edkm.dkm.kernels.choice import Passes, passes_for

__all__ = ["Passes", "passes_for"]
