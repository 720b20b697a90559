"""What stops a training run for a reason the user can act on."""

from __future__ import annotations


class DataError(ValueError):
    """The data cannot be used; the message names file, row and remedy."""


class DivergedError(RuntimeError):
    """The loss is no longer finite; the message names the step and the last good checkpoint."""


class PeerLostError(RuntimeError):
    """Another process of a sharded run is gone; the message names what to go on from."""
