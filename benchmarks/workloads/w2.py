"""W2: the network of W1 in a training step."""

from __future__ import annotations

import functools

import attrs

from benchmarks.workloads.w1 import w1
from benchmarks.workloads.work import Work

KINDS = {"a": ("adjoint", "adjoint"), "d": ("direct", "exact gradient"), "c": ("checkpointed", "exact, replayed")}
"""The letter of a case: odekit's gradient method, and what it is called."""


def w2(letter: str) -> Work:
    gradient, words = KINDS[letter]
    return attrs.evolve(w1(), name=f"W2{letter}", title=f"small MLP, training step, {words}", gradient=gradient)


CASES = {f"W2{letter}": functools.partial(w2, letter) for letter in KINDS}
