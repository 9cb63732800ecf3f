"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from odekit.core.protocols import Classifier, Data, DensityModel, Model, Split
from odekit.runner.randomness import Randomness

_SAMPLES = 40_000
_CHUNK = 5_000
_GRID = 200
_BINS = 125
_MISTAKES = 24
_LOSSES = {"log_likelihood": "negative log-likelihood, nats", "cross_entropy": "cross entropy, nats", "loss": "loss"}
_TRAIN, _VALID = "#8da0cb", "#d95f02"


def draw(
    folder: Path, model: Model, data: Data, records: Sequence[dict[str, Any]], randomness: Randomness
) -> list[Path]:
    """Every picture that suits the task, as files in ``folder``: the training curve, and what the model has learnt."""
    folder.mkdir(exist_ok=True)
    made = []
    if len(records) > 1:
        made.append(_training(folder / "training.png", records))
    model.eval()
    with torch.no_grad():
        if isinstance(model, DensityModel) and data.shape == (2,):
            made.append(_density(folder / "density.png", model, data, randomness))
        if isinstance(model, Classifier) and len(data.shape) in (2, 3):
            made.extend(_mistakes(folder / "mistakes.png", model, data.test))
    return made


def _training(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    panels = [panel for panel in (_loss, _error, _cost) if panel(None, records)]
    figure, axes = _sheet(len(panels), (5.2, 3.6))
    for panel, axis in zip(panels, axes, strict=True):
        panel(axis, records)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _loss(axis: Axes | None, records: Sequence[dict[str, Any]]) -> bool:
    valid = next(name for name in _LOSSES if f"valid_{name}" in records[0])
    if axis is not None:
        sign = -1 if valid == "log_likelihood" else 1
        steps = [record["step"] for record in records]
        axis.plot(steps, [record["train_loss"] for record in records], color=_TRAIN, label="train")
        axis.plot(steps, [sign * _number(record[f"valid_{valid}"]) for record in records], color=_VALID, label="valid")
        axis.set_ylabel(_LOSSES[valid])
    return True


def _error(axis: Axes | None, records: Sequence[dict[str, Any]]) -> bool:
    if axis is not None:
        steps = [record["step"] for record in records]
        if "train_error" in records[0]:
            axis.plot(steps, [record["train_error"] for record in records], color=_TRAIN, label="train")
        axis.plot(steps, [_number(record["valid_error"]) for record in records], color=_VALID, label="valid")
        axis.set_ylabel("error")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_ylim(bottom=0)
    return "valid_error" in records[0]


def _cost(axis: Axes | None, records: Sequence[dict[str, Any]]) -> bool:
    if axis is not None:
        steps = [record["step"] for record in records]
        axis.plot(steps, [record["nfe_forward"] for record in records], color="#1b9e77", label="forward")
        axis.plot(steps, [record["nfe_backward"] for record in records], color="#7570b3", label="backward")
        axis.set_ylabel("function evaluations per step")
        axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    return any(record["nfe_forward"] for record in records)


def _density(path: Path, model: DensityModel, data: Data, randomness: Randomness) -> Path:
    """Data, samples of the model and its density, in the same frame."""
    like = next(model.parameters())
    shown = data.train.x[:_SAMPLES]
    low, high = shown.amin(0), shown.amax(0)
    centre, half = (low + high) / 2, 0.53 * float((high - low).max())
    frame = [(float(c) - half, float(c) + half) for c in centre]

    model_samples = torch.cat([
        model.sample(min(_CHUNK, len(shown) - start), randomness.generator("picture", start, device=like.device)).cpu()
        for start in range(0, len(shown), _CHUNK)
    ])  # fmt: skip
    lines = [torch.linspace(a, b, _GRID) for a, b in frame]
    grid = torch.cartesian_prod(*lines).to(like.device, like.dtype)
    log_density = torch.cat([
        model.log_prob(part, randomness.generator("grid", number, device=like.device))
        for number, part in enumerate(grid.split(_CHUNK))
    ])  # fmt: skip

    figure, axes = _sheet(3, (5.0, 5.0))
    look: dict[str, Any] = {"cmap": "inferno"}
    for axis, samples in zip(axes[:2], (shown, model_samples), strict=True):
        x, y = samples.double().numpy().T
        axis.hist2d(x, y, bins=_BINS, range=frame, **look)
    axes[2].imshow(
        log_density.exp().double().cpu().reshape(_GRID, _GRID).T.numpy(),
        origin="lower", extent=(*frame[0], *frame[1]), interpolation="bilinear", **look,
    )  # fmt: skip
    for axis, title in zip(axes, ("data", "samples of the model", "density of the model"), strict=True):
        axis.set(title=title, xlim=frame[0], ylim=frame[1], aspect="equal", xticks=[], yticks=[])
    return _saved(figure, path)


def _mistakes(path: Path, model: Classifier, split: Split) -> list[Path]:
    """The first samples that are classified wrongly; no picture if there are none or they have no labels."""
    like = next(model.parameters())
    wrong: list[tuple[Tensor, int, int]] = []
    for start in range(0, len(split) if split.y is not None else 0, 500):
        x, y = split.x[start : start + 500], split.y[start : start + 500]  # type: ignore[index]
        guess = model(x.to(like.device, like.dtype)).argmax(-1).cpu()
        wrong += [(x[i], int(y[i]), int(guess[i])) for i in (guess != y).nonzero()[:, 0].tolist()]
        if len(wrong) >= _MISTAKES:
            break
    if not wrong:
        return []
    wrong = wrong[:_MISTAKES]
    figure = Figure(figsize=(9, 1.35 * -(-len(wrong) // 8)), layout="constrained")
    for number, (image, label, guess) in enumerate(wrong):
        axis = figure.add_subplot(-(-len(wrong) // 8), 8, number + 1)
        picture = image.float().movedim(0, -1) if image.dim() == 3 else image.float()
        picture = picture[..., 0] if picture.dim() == 3 and picture.shape[-1] == 1 else picture
        span = picture - picture.min()
        axis.imshow((span / span.max().clamp(min=1e-12)).numpy(), cmap="gray_r")
        axis.set_title(f"{label} taken for {guess}", fontsize=7)
        axis.axis("off")
    return [_saved(figure, path)]


def _sheet(panels: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(size[0] * panels, size[1]), layout="constrained")
    return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


def _saved(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure).print_png(path)
    return path


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
