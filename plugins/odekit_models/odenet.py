"""Image classifiers that differ in what lies between one stem and one head: an ODE, residual blocks, or nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Classifier, Tools
from odekit.errors import InputError, OptionError
from odekit_models import blocks

STEMS = {"conv": blocks.conv_stem, "small": blocks.small_stem}
_SMALLEST = {"conv": 6, "small": 2}
_SMALL_IMAGES = 16
_TOLERANCE = 1e-3


@attrs.frozen
class ImageOptions:
    """Channels inside the network, and how it begins (``small`` for images below 16 pixels, else ``conv``)."""

    width: int = opt.whole(64)
    stem: str | None = opt.choice(None, STEMS)


@attrs.frozen
class ResNetOptions(ImageOptions):
    """The same, and how many residual blocks."""

    blocks: int = opt.whole(6)


class ImageClassifier(Classifier):
    """A stem, a body that keeps the shape, and a head."""

    Options: ClassVar[type[ImageOptions]] = ImageOptions

    def __init__(self, stem: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = stem, body, head

    @staticmethod
    @abstractmethod
    def body_of(options: Any, tools: Tools) -> nn.Module:
        """What lies between the stem and the head, for features of ``options.width`` channels."""

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> ImageClassifier:
        """A fresh network for images ``[C, H, W]``. Options: see the class.

        Raises:
            InputError: the samples are not images, or there are no classes.
            OptionError: an option is unknown, or a value does not fit.
        """
        chosen = opt.read(cls.Options, options, cls.name)
        if len(shape) != 3 or classes is None:
            what = "without classes" if classes is None else f"of shape {tuple(shape)}"
            raise InputError(f"{cls.name} classifies images [channels, height, width]; the samples are {what}")
        channels, *sides = shape
        stem = chosen.stem or ("small" if min(sides) < _SMALL_IMAGES else "conv")
        if min(sides) < _SMALLEST[stem]:
            raise InputError(
                f"{cls.name}: images of {sides[0]} × {sides[1]} are too small for stem={stem!r}, "
                f"which needs at least {_SMALLEST[stem]} pixels a side"
            )
        if chosen.width > 32 and chosen.width % 32:
            raise OptionError(f"{cls.name}: width={chosen.width}; expected up to 32, or a multiple of 32")
        return cls(STEMS[stem](channels, chosen.width), cls.body_of(chosen, tools), blocks.head(chosen.width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]``."""
        return self.head(self.body(self.stem(x)))


class ODENet(ImageClassifier):
    """A residual network of continuous depth: an ODE over t in [0, 1] between stem and head.

    Chen et al. 2018, *Neural ordinary differential equations*, Section 3. The tolerance is 1e-3 unless one is chosen.
    Options: ``width`` (channels), ``stem``.
    """

    name = "odenet"

    @staticmethod
    def body_of(options: ImageOptions, tools: Tools) -> nn.Module:
        rtol = _TOLERANCE if tools.rtol is None else tools.rtol
        atol = _TOLERANCE if tools.atol is None else tools.atol
        solve_options = attrs.evolve(tools, rtol=rtol, atol=atol).solve_options()
        return odekit.NeuralODE(blocks.ConvField(options.width), t=(0.0, 1.0), **solve_options)


class ResNet(ImageClassifier):
    """The discrete counterpart of ``odenet``: residual blocks in place of the ODE.

    He et al. 2016, *Identity mappings in deep residual networks*. Options: ``width``, ``blocks`` (how many), ``stem``.
    """

    name = "resnet"
    solves = False
    Options = ResNetOptions

    @staticmethod
    def body_of(options: ResNetOptions, tools: Tools) -> nn.Module:
        return nn.Sequential(*(blocks.ResidualBlock(options.width) for _ in range(options.blocks)))


class OneBlock(ImageClassifier):
    """A control for ``odenet``: a single residual block, of nearly as many parameters.

    Options: ``width``, ``stem``.
    """

    name = "one-block"
    solves = False

    @staticmethod
    def body_of(options: ImageOptions, tools: Tools) -> nn.Module:
        return blocks.ResidualBlock(options.width)


class StemOnly(ImageClassifier):
    """A control for ``odenet``: its stem and its head, with nothing between.

    Options: ``width``, ``stem``.
    """

    name = "stem-only"
    solves = False

    @staticmethod
    def body_of(options: ImageOptions, tools: Tools) -> nn.Module:
        return nn.Identity()


@odekit.hookimpl
def register_models(register: Callable[[Any], None]) -> None:
    for model in (ODENet, ResNet, OneBlock, StemOnly):
        register(model)
