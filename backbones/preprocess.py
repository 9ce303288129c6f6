"""From an image to a model's input pixels: size, interpolation, and how the aspect ratio is treated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common.messages import UserError

if TYPE_CHECKING:
    import numpy as np

RESIZE_MODES = ("squash", "letterbox", "model")
KEEP = "keep"  # the resize mode of --image_size crop
BOX = "box"
POOLINGS = ("cls", "mean", "gem", "max", "mean+max", BOX)  # from cells or tokens to one vector, see backbone.Pooled
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a model wants to see: `height` x `width` pixels, then (pixel / 255 - mean) / std for each of R, G, B.

    resize_mode: "squash" stretches to the input size; "letterbox" keeps the aspect ratio and centres on white; "model" does as the
    model was trained: the shorter edge to `short_edge` pixels, then the centre (squash where it has no `short_edge`); "keep" leaves
    every image at its own size, and height and width say what the model was trained on.
    """

    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    short_edge: int | None = None
    resize_mode: str = "squash"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "preprocess") -> Preprocess:
        """Return the preprocessing described by `values`, keys as the fields; raises UserError naming `where` and the field."""
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UserError(f"{where}: unknown preprocessing {', '.join(unknown)}; it knows {', '.join(sorted(names))}")
        try:
            fields: dict[str, Any] = {k: tuple(map(float, v)) if k in ("mean", "std") else v for k, v in values.items()}
            made = cls(**fields)
            sizes = [made.height, made.width, 1 if made.short_edge is None else made.short_edge]
            sound = (
                len(made.mean) == len(made.std) == 3
                and min(made.std) > 0
                and all(map(math.isfinite, made.mean + made.std))
            )
            sound = sound and all(type(size) is int and 1 <= size <= 8192 for size in sizes)
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound or made.interpolation not in INTERPOLATIONS or made.resize_mode not in (*RESIZE_MODES, KEEP):
            raise UserError(f"{where}: preprocessing {dict(values)} makes no sense; see docs/formats.md")
        return made

    @property
    def keeps_size(self) -> bool:
        """Whether images go into the model at their own sizes, which differ."""
        return self.resize_mode == KEEP

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return RGB uint8 (height, width, 3) made from RGB uint8 of any size; the image itself where it keeps its size."""
        if self.keeps_size:
            return image
        high, wide = image.shape[:2]
        if self.resize_mode == "letterbox":
            scale = min(self.height / high, self.width / wide)
            inner = resize(image, max(1, round(high * scale)), max(1, round(wide * scale)), self.interpolation)
            return _centred(inner, self.height, self.width)
        if self.resize_mode == "model" and self.short_edge:
            scale = self.short_edge / min(high, wide)
            inner = resize(image, max(1, round(high * scale)), max(1, round(wide * scale)), self.interpolation)
            return _centred(inner, self.height, self.width)
        return resize(image, self.height, self.width, self.interpolation)


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize RGB uint8 (h, w, 3) with antialiasing, within two grey levels of Pillow; the image itself where the size fits already.

    torch does bilinear and bicubic on uint8 with vector instructions, several times faster than Pillow, which does the others.
    """
    if image.shape[:2] == (height, width):
        return image
    import numpy as np

    if interpolation in ("bilinear", "bicubic"):
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(pixels, size=(height, width), mode=interpolation, antialias=True)
        return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[interpolation.upper()]))


def _centred(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the centre of `image`, cut or filled with white to height x width."""
    import numpy as np

    canvas = np.full((height, width, 3), 255, np.uint8)
    high, wide = min(height, image.shape[0]), min(width, image.shape[1])
    top, left = (image.shape[0] - high) // 2, (image.shape[1] - wide) // 2
    to_top, to_left = (height - high) // 2, (width - wide) // 2
    canvas[to_top : to_top + high, to_left : to_left + wide] = image[top : top + high, left : left + wide]
    return canvas
