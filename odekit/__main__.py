"""``python -m odekit``, the same as the command ``odekit``; ``torchrun -m odekit`` needs it."""

from __future__ import annotations

from odekit.cli.main import main

if __name__ == "__main__":
    main(prog_name="odekit")
