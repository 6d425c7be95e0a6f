"""What fully describes a vision encoder and the pixels it expects, as one JSON-able record.

A config says everything needed to rebuild the module without weights and without a network; that is why the
transformers kinds keep the fields of their own config in ``options``.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["timm", "siglip", "siglip2", "clip"]
Resample = Literal["bilinear", "bicubic"]
Fit = Literal["squash", "pad", "anyres", "dynamic"]


@dataclass(frozen=True)
class VisionConfig:
    """A vision encoder and its preprocessing.

    Attributes:
        kind: ``timm`` for any timm backbone; ``siglip`` also for the fixed-resolution SigLIP2 checkpoints, which are
            published under that model type; ``siglip2`` for the NaFlex ones; ``clip``.
        model: timm architecture name; "" for the other kinds.
        image_size: side of the square that the encoder sees, pixels.
        feature_layer: transformers kinds only: index into ``hidden_states``. -1 is the last layer's output before
            any closing layer norm, -2 what LLaVA descendants use.
        options: extra keyword arguments of ``timm.create_model``, or fields of the transformers vision config.
            There ``image_size`` is the side that the position table was trained for, when it differs from ours.
        mean, std: per RGB channel, of pixels scaled to [0, 1].
        resample: filter of the resize.
        fit: what becomes of a picture's shape (`vision_encoders.resolution`). ``squash`` makes it a square and ignores
            the aspect ratio; ``pad`` keeps it and fills up with the mean color; ``anyres`` shows the whole as a square
            and beside it tiles of that size; ``dynamic`` keeps size and shape as far as patches and pixels allow.
            Video frames are one square each: padded under ``pad``, else squashed.
        max_grid, max_tiles, newline: of ``anyres``. Tiles a side at most; features of more than ``max_tiles`` tiles
            are averaged down to as many; whether every row of features ends in a token of its own.
        min_pixels, max_pixels, merge: of ``dynamic``. The picture's area is kept between these; squares of ``merge``
            x ``merge`` features become one token.

    Raises:
        ValueError: a field has a value that no encoder could use.
    """

    kind: Kind
    model: str
    image_size: int
    feature_layer: int = -1
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Resample = "bicubic"
    fit: Fit = "squash"
    max_grid: int = 6
    max_tiles: int = 9
    newline: bool = False
    min_pixels: int = 1
    max_pixels: int = 2**20
    merge: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("kind", Kind), ("resample", Resample), ("fit", Fit)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise ValueError(f"unknown vision {name} {value!r}; {nearest(value, get_args(allowed))}")
        if self.image_size < 1:
            raise ValueError(f"vision image_size must be at least 1, not {self.image_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"vision mean and std need three numbers, std positive: {self.mean}, {self.std}")
        for name in ("max_grid", "max_tiles", "min_pixels", "merge"):
            if getattr(self, name) < 1:
                raise ValueError(f"vision {name} must be at least 1, not {getattr(self, name)}")
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"vision max_pixels {self.max_pixels} is below min_pixels {self.min_pixels}")
        self._check_fit()
        if self.kind == "timm" and self.feature_layer != -1:
            raise ValueError("vision feature_layer applies to siglip, siglip2 and clip; a timm backbone has only -1")

    def _check_fit(self) -> None:
        """A setting of another policy than ``fit`` would be without effect."""
        owners = {"anyres": ("max_grid", "max_tiles", "newline"), "dynamic": ("min_pixels", "max_pixels", "merge")}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for fit, names in owners.items():
            for name in names:
                if self.fit != fit and getattr(self, name) != defaults[name]:
                    raise ValueError(f"vision {name} applies to fit {fit!r}, not to {self.fit!r}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy: tuples become lists."""
        values = dataclasses.asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VisionConfig":
        """The config that ``to_dict`` wrote.

        Raises:
            ValueError: a key is unknown, a required one is missing, or a value is impossible.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ValueError(f"unknown key {key!r} in a vision config; {nearest(key, fields)}")
        missing = [key for key in ("kind", "model", "image_size") if key not in values]
        if missing:
            raise ValueError(f"a vision config needs {', '.join(missing)}")
        triples = {key: tuple(values[key]) for key in ("mean", "std") if key in values}
        return cls(**{**values, **triples})


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the known words most like ``word``, or all of them if none is alike."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known[:12])}"
