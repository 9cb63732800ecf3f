"""Follow what runs on pendulum trajectories have learned for a hundred units of time: python follow.py RUN [RUN ...]

Of each run folder it prints the RMS error of the states at t = 10 and 100, and the mean absolute error of the true
energy up to t = 10 and from 90 to 100, over the test trajectories.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from odekit_hamiltonian.systems import Pendulum
from odekit_hamiltonian.trajectories import PendulumTrajectories
from safetensors.torch import load_file

import odekit
from odekit.runner import choices, toml

TIMES = 0.125 * torch.arange(801, dtype=torch.float64)


def learned(folder: Path) -> torch.nn.Module:
    """The model of a run, in float64."""
    spec = toml.parse(toml.read(folder / "spec.toml"))
    parts = choices.find(spec)
    data = parts.data.load(None, spec.seed, **spec.data.options)
    model = parts.model.build(data.shape, None, parts.tools, **spec.model.options)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.double().eval()


@torch.no_grad()
def main(folders: list[str]) -> None:
    """Print one line for each folder."""
    system = Pendulum()
    starts = PendulumTrajectories.load(None, 0).test.x[:, 0, 1:].double()
    truth = odekit.solve(system, starts, TIMES, solver="kahan_li6", step_size=0.03125).ys
    for folder in folders:
        states = learned(Path(folder))(starts, TIMES)
        apart = [float((states[i] - truth[i]).square().mean().sqrt()) for i in (80, -1)]
        energy = system.energy(states)
        drift = (energy - energy[0]).abs()
        means = [float(part.mean()) for part in (drift[:81], drift[-81:])]
        print(f"{folder}: states {apart[0]:.1e}, {apart[1]:.1e}; energy {means[0]:.1e}, {means[1]:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
