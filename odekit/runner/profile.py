"""What every gradient method costs on one batch of an experiment, each measured in a process of its own.

A process has one peak of memory, so a fresh one measures each method: it reads a task as JSON from stdin, does a few
forward and backward passes, and writes what it found as JSON to stdout.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from odekit.core.tolerance import default_tolerances
from odekit.errors import OdekitError, OptionError, RunError
from odekit.gradients import memory
from odekit.registry import catalog
from odekit.runner import choices, toml
from odekit.runner.device import choose, peak_memory
from odekit.runner.distributed import Processes
from odekit.runner.experiment import data_of, model_of, threads
from odekit.runner.folder import finite
from odekit.runner.randomness import Randomness
from odekit.runner.spec import Choice, Spec
from odekit.runner.training import Trainer

_LEAST = 1e-10
"""The tightest tolerance of a reference."""
_TIGHTER = 1e-4
"""What tolerances are multiplied by for a reference: an f with kinks needs many steps for much more than that."""
_SIMILAR = 10.0
"""Gradients with errors up to this factor above the least count as equally good."""
_NO_SLOWER = 1.1
"""Times up to this factor above the least count as equally fast."""
_SHARE = 0.25
"""Of the free memory, what a recommended method may take."""


@attrs.frozen
class Cost:
    """One gradient method on one batch.

    Attributes:
        gradient: its name.
        picked: the name of the method that it picked, if it is a rule.
        peak_mib: the most memory held during the first pass, above what was held before.
        seconds: of one forward and backward pass, the median.
        nfe_forward, nfe_backward: calls of the dynamics in a pass.
        error: of the gradient, relative to the reference; None without one.
        problem: why there are no such numbers.
    """

    gradient: str
    picked: str = ""
    peak_mib: float = math.nan
    seconds: float = math.nan
    nfe_forward: int = 0
    nfe_backward: int = 0
    error: float | None = None
    problem: str = ""


@attrs.frozen
class Profile:
    """All of them.

    Attributes:
        costs: one a registered method.
        reference: what errors are relative to, or why there is nothing.
        recommended: the name of a method; None if none works.
        reason: why this one.
    """

    costs: tuple[Cost, ...]
    reference: str
    recommended: str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**attrs.asdict(self), "costs": [finite(attrs.asdict(cost)) for cost in self.costs]}


def profile(
    spec: Spec,
    *,
    data_folder: Path | None = None,
    repeats: int = 5,
    time_limit: float = 300.0,
    methods: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda line: None,
    on_cost: Callable[[Cost], None] = lambda cost: None,
) -> Profile:
    """Measure gradient methods on the first batch of the experiment that ``spec`` describes.

    Errors are relative to the gradient of the same model and batch with ``checkpointed``, in float64 and with tight
    tolerances; fixed steps keep their size, so that their own error does not count.

    Args:
        repeats: passes to take the time of, after the first.
        time_limit: seconds for each method; one that needs longer is reported as such.
        methods: names of gradient methods; all that are registered by default.
        note: told what is done.
        on_cost: told every cost as soon as it is known.

    Raises:
        NameNotFound, OptionError, InputError: the spec asks for something that is not there or not possible.
        DeviceError: the device is not there.
    """
    if not choices.find(spec).model.solves:
        raise OptionError(f"the model {spec.model.name!r} solves no ODE, so there is no gradient method to choose")
    device = choose(spec.device, getattr(torch, spec.dtype))
    note(str(device))
    with tempfile.TemporaryDirectory(prefix="odekit-profile-") as place:
        folder = Path(place)
        common = {"data_folder": None if data_folder is None else str(data_folder)}
        note("reference: checkpointed, float64, tight tolerances")
        known = folder / "reference.npy"
        answer = _asked({**common, "spec": toml.tables(_reference(spec)), "repeats": 0, "out": str(known)}, time_limit)
        reference = answer.get("problem") or "checkpointed in float64" + (
            "" if spec.solver.step_size else f" at rtol={_reference(spec).solver.rtol:.0e}"
        )
        costs = []
        for name in methods or [catalog().spelling(entry) for entry in catalog().entries("gradient")]:
            note(f"{name} ...")
            choice = spec.gradient if spec.gradient.name == name else Choice(name)
            out = folder / "gradient.npy"
            task = {
                **common,
                "spec": toml.tables(attrs.evolve(spec, gradient=choice)),
                "repeats": repeats,
                "out": str(out),
            }
            answer = _asked(task, time_limit)
            if not answer.get("problem") and known.exists():
                answer["error"] = relative_error(np.load(out), np.load(known))
            costs.append(Cost(gradient=name, **answer))
            on_cost(costs[-1])
    return Profile(tuple(costs), reference, *recommendation(costs, _SHARE * memory.free(device.device) / 2**20))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """‖found - expected‖ / ‖expected‖, or the norm of what was found where nothing was expected."""
    return float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))


def recommendation(costs: Sequence[Cost], room_mib: float) -> tuple[str | None, str]:
    """The name of the method to use, and why.

    Of those that fit into memory and whose gradient is as good as the best, the fastest; of equally fast ones the one
    that takes the least memory. Rules that pick another method do not stand for election.
    """
    able = [cost for cost in costs if not cost.problem and not cost.picked]
    if not able:
        return None, "no method works with this model"
    fitting = [cost for cost in able if not cost.peak_mib > room_mib]
    if not fitting:
        least = min(able, key=lambda cost: cost.peak_mib)
        return least.gradient, "takes the least memory, though more than a quarter of what is free"
    errors = [cost.error for cost in fitting if cost.error is not None]
    good = [c for c in fitting if c.error is None or not errors or c.error <= _SIMILAR * max(min(errors), 1e-7)]
    good = good or fitting
    fastest = min(cost.seconds for cost in good)
    quick = [cost for cost in good if cost.seconds <= _NO_SLOWER * fastest]
    chosen = min(quick, key=lambda cost: cost.peak_mib)
    words = ["the fastest" if len(quick) == 1 else "of the fastest, the one with the least memory"]
    if len(good) < len(fitting):
        words.append("among those with an accurate gradient")
    if len(fitting) < len(able):
        words.append("that fit into a quarter of the free memory")
    return chosen.gradient, " ".join(words)


def _reference(spec: Spec) -> Spec:
    device = "cpu" if spec.device == "mps" else spec.device
    usual = default_tolerances(getattr(torch, spec.dtype), adaptive=True)
    given = (spec.solver.rtol, spec.solver.atol)
    rtol, atol = (
        max(_TIGHTER * (own if asked is None else asked), _LEAST) for asked, own in zip(given, usual, strict=True)
    )
    solver = attrs.evolve(spec.solver, rtol=rtol, atol=atol)
    return attrs.evolve(spec, dtype="float64", gradient=Choice("checkpointed"), solver=solver, device=device)


def _asked(task: Mapping[str, Any], time_limit: float) -> dict[str, Any]:
    """What a fresh process finds, or the ``problem`` that it has."""
    command = [sys.executable, "-m", __name__]
    try:
        ended = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=time_limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"took longer than {time_limit:g} s"}
    if ended.returncode < 0:
        return {"problem": f"was killed by signal {-ended.returncode}; out of memory?"}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        told = ended.stderr.strip().splitlines()
        return {"problem": told[-1] if told else f"ended with exit code {ended.returncode}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measured(spec: Spec, data_folder: Path | None, repeats: int, out: Path) -> dict[str, Any]:
    """The costs of the spec's own gradient method, in this process; the gradient goes to the file ``out``.

    Raises:
        OdekitError: the method cannot work with this model.
    """
    dtype: torch.dtype = getattr(torch, spec.dtype)
    device = choose(spec.device, dtype).device
    parts, randomness = choices.find(spec), Randomness(spec.seed)
    with threads(spec.threads):
        data = data_of(spec, parts, data_folder)
        model = model_of(spec, parts, data, randomness).to(device, dtype).train()
        x, y = Trainer(spec, model, data, device, randomness, Processes()).batch(0, 0)

        def once() -> float:
            randomness.seed_globals("step", 0, 0)
            model.zero_grad(set_to_none=True)
            begun = time.perf_counter()
            model.loss(x, y, randomness.generator("noise", 0, 0, device=device))[0].backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - begun

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = peak_memory(device)
        times = [once()]
        peak, stats = peak_memory(device) - before, model.solve_stats()
        grads = [p.grad.detach().cpu().double().flatten() for p in model.parameters() if p.grad is not None]
        if not grads:
            raise RunError("no parameter of the model got a gradient")
        np.save(out, torch.cat(grads).numpy())
        times += [once() for _ in range(repeats)]
    picked = {each.gradient for each in stats if each.why}
    return {
        "picked": ", ".join(sorted(picked)),
        "peak_mib": peak,
        "seconds": statistics.median(times[1:] or times),
        "nfe_forward": sum(each.nfe for each in stats),
        "nfe_backward": sum(each.nfe_backward for each in stats),
    }


def _answer(task: Mapping[str, Any]) -> dict[str, Any]:
    folder = task["data_folder"]
    try:
        spec = toml.parse(task["spec"])
        return measured(spec, None if folder is None else Path(folder), task["repeats"], Path(task["out"]))
    except (OdekitError, RuntimeError) as error:
        return {"problem": " ".join(str(error).split()) or type(error).__name__}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
