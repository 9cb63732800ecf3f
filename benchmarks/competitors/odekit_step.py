"""odekit with compiled steps."""

from __future__ import annotations

from benchmarks.competitors.in_torch import preparing
from benchmarks.competitors.odekit_eager import solving

prepare = preparing(solving(compile=True), "odekit")
