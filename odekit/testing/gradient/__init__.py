"""What a gradient method has to prove."""

from __future__ import annotations

from odekit.testing.checks import Checks
from odekit.testing.gradient import keeping, values

GRADIENT_CHECKS = Checks(values.CHECKS, keeping.CHECKS)
"""In the order in which they are reported."""
