"""The norms of a state, one tensor or a tuple, under the names that they have in torchdiffeq."""

from odekit.compat.norms import mixed as _mixed_norm
from odekit.core.tolerance import rms as _rms_norm

__all__ = ["_mixed_norm", "_rms_norm"]
