"""Records of annotated objects, as every annotation format is read into them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated box in pixels of the image; the right and bottom edges are exclusive. Finite, width and height above 0."""

    left: float
    top: float
    right: float
    bottom: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Outline:
    """The shape of an object: polygons as x, y, x, y, … in the units of its box, or else a mask of the whole image.

    The mask is `size` (height, width) with run lengths down the columns, zeros first, as COCO's uncompressed RLE.
    """

    polygons: tuple[array[float], ...] = ()
    size: tuple[int, int] = (0, 0)
    runs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Object:
    """One annotated object. `image` is the name to look the file up by, `declared` the (width, height) the file gives it.

    `units` are those of the box: "pixels", or "fraction", "percent" or "permille" of the image's width and height.
    """

    image: str
    sample_id: str
    object_id: str
    split: str
    classes: tuple[str, ...]
    box: Box
    declared: tuple[int, int] | None
    source: str
    units: str = "pixels"
    outline: Outline | None = None
    # The name of an annotation file about one photo: the photo's, where there is none of the name that the file gives.
    own_name: str = ""
    embedded: bool = False  # whether the photo is in the annotation file itself

    @property
    def crop_id(self) -> str:
        return f"{self.sample_id}_{self.object_id}"

    def scaled(self, x: float, y: float) -> Object:
        """Return the object with its box and its polygons in pixels, `x` and `y` times as large."""
        box, outline = self.box, self.outline
        edges = (box.left * x, box.top * y, box.right * x, box.bottom * y)
        if outline and outline.polygons:
            polygons = (array("d", [v * (y if i % 2 else x) for i, v in enumerate(p)]) for p in outline.polygons)
            outline = Outline(tuple(polygons))
        return replace(self, box=Box(*edges, box.width * x, box.height * y), units="pixels", outline=outline)


@dataclass(frozen=True, slots=True)
class Skipped:
    """One object that cannot become a crop; a row of skipped.csv. `file` and `line` say where it stands, as far as known."""

    sample_id: str
    object_id: str
    reason: str
    file: str = field(default="", compare=False, repr=False)
    line: str = field(default="", compare=False, repr=False)
