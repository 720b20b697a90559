"""Adapters to the peers of the paper's Table 3, and to our own rows of it.

Here: one function a method, from a job to a folder whose file is measured. The peers' algorithms
are their libraries' (extra ``compare``). Not here: the table (`edkm.compare`), measuring
(`edkm.evaluate`).
"""

from edkm.baselines.job import METHODS, SEEDLESS, TRAINED, Job, compress

__all__ = ["METHODS", "SEEDLESS", "TRAINED", "Job", "compress"]
