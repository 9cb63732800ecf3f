"""Pictures: there is one for what there is to see, and it shows it in the right place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import runner_stubs
import torch
from matplotlib.image import imread
from torch import nn

from odekit.core.protocols import Classifier, Data, Split, Tools
from odekit.runner.figures import draw
from odekit.runner.randomness import Randomness

RECORDS = [
    {"step": step, "train_loss": 1 / step, "valid_log_likelihood": -1 / step, "nfe_forward": 8.0, "nfe_backward": 6.0}
    for step in (1, 2, 3)
]


class First(Classifier):
    """Takes everything for class 0."""

    name = "first"

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> First:
        return cls()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(x), 2)


def test_a_density_is_seen_where_it_is(tmp_path: Path) -> None:
    model = runner_stubs.Gaussian()
    with torch.no_grad():
        model.mean.copy_(torch.tensor([2.0, -2.0]))
        model.log_scale.fill_(-1.0)
    corners = torch.tensor([[-4.0, -4.0], [4.0, 4.0]])
    part = Split(torch.cat([corners, model.sample(2000, torch.Generator().manual_seed(0)).detach()]))
    made = draw(tmp_path / "figures", model, Data(part, part, part, shape=(2,)), RECORDS, Randomness(0))
    assert [path.name for path in made] == ["training.png", "density.png"]
    picture = imread(tmp_path / "figures" / "density.png")[..., :3].sum(-1)
    height, width = picture.shape
    assert width > 1400
    assert height > 480
    for panel in range(3):
        square = picture[height // 10 :, panel * width // 3 + 20 : (panel + 1) * width // 3 - 20]
        rows, columns = square.shape
        lower_right = square[rows // 2 + 10 : -20, columns // 2 : -10].mean()
        upper_left = square[10 : rows // 2, 10 : columns // 2 - 10].mean()
        assert lower_right > 4 * upper_left


def test_mistakes_are_shown_and_perfect_models_have_none(tmp_path: Path) -> None:
    images = torch.rand(30, 1, 6, 6)

    def data(labels: torch.Tensor) -> Data:
        part = Split(images, labels)
        return Data(part, part, part, shape=(1, 6, 6), classes=2)

    made = draw(tmp_path / "a", First(), data(torch.arange(30) % 2), [], Randomness(0))
    assert [path.name for path in made] == ["mistakes.png"]
    assert draw(tmp_path / "b", First(), data(torch.zeros(30, dtype=torch.long)), [], Randomness(0)) == []


def test_curves_of_a_classifier(tmp_path: Path) -> None:
    records = [
        {"step": step, "train_loss": 1.0, "train_error": 0.5, "valid_error": 0.5, "valid_cross_entropy": None,
         "nfe_forward": 0.0, "nfe_backward": 0.0}
        for step in (1, 2)
    ]  # fmt: skip
    part = Split(torch.rand(4, 2), torch.zeros(4, dtype=torch.long))
    made = draw(tmp_path, First(), Data(part, part, part, shape=(2,), classes=2), records, Randomness(0))
    assert [path.name for path in made] == ["training.png"]
