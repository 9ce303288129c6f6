"""What stands on the demo's shelves: brands, categories, flavours, and how their packages look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray
PX_PER_MM = 2.4  # of the printed textures


@dataclass(frozen=True)
class Line:
    """Packages of one brand and category: one design, in which a flavour changes a band, its word and icon, and a tint."""

    brand: str
    category: str
    shape: str  # a key of SILHOUETTES
    size: tuple[int, int, int]  # width, height, depth in mm
    paper: str
    ink: str
    art: str  # a key of ART
    accent: str  # the line's colour between its flavours
    band: tuple[float, float]  # top and bottom on the label, in parts of its height
    flavours: tuple[tuple[str, str, str], ...]  # name, tone, icon


@dataclass(frozen=True)
class Product:
    line: Line
    flavour: str
    tone: str
    icon: str

    @property
    def classes(self) -> list[str]:
        return [self.line.brand, self.line.category, self.flavour]

    @property
    def sku_id(self) -> str:
        return "-".join(name.upper().replace(" ", "") for name in self.classes)


# fmt: off
LINES = (
    Line("Norda", "Muesli", "box", (142, 226, 52), "#f2e4c8", "#23443a", "bowl", "#b98a3c", (0.92, 1.0),
         (("Honey", "#e3a51c", "drop"), ("Berry", "#9a2f55", "berries"), ("Apple", "#6f9c33", "fruit"))),
    Line("Norda", "Oat Drink", "box", (84, 214, 84), "#dfeaf2", "#23443a", "hills", "#6f9fbd", (0.9, 1.0),
         (("Natural", "#7fa7c9", "drop"), ("Vanilla", "#e6c65a", "star"), ("Barista", "#7a5a43", "bean"))),
    Line("Casa Lume", "Pasta", "bag", (116, 236, 40), "#1d3f86", "#ffffff", "strands", "#c9302c", (0.92, 1.0),
         (("Spaghetti", "#c9302c", "star"), ("Linguine", "#4d9a54", "star"), ("Bucatini", "#8a3f9c", "star"))),
    Line("Casa Lume", "Sauce", "jar", (88, 152, 88), "#f7f1df", "#8e1f1c", "tomatoes", "#3d6b35", (0.84, 1.0),
         (("Basilico", "#2f7d32", "leaf"), ("Arrabbiata", "#c2261d", "star"), ("Funghi", "#8b6b4a", "drop"))),
    Line("Kimaro", "Coffee", "bag", (112, 206, 60), "#2b2320", "#f0dfc0", "peaks", "#b5793a", (0.92, 1.0),
         (("Colombia", "#d0a12a", "bean"), ("Ethiopia", "#b4472c", "bean"), ("Sumatra", "#3f6f9a", "bean"))),
    Line("Kimaro", "Cocoa", "tin", (98, 146, 98), "#5a2d1f", "#f6e3b4", "burst", "#d8b15a", (0.86, 1.0),
         (("Dark 85", "#3a1d18", "star"), ("Orange", "#df7a1f", "fruit"), ("Chili", "#b8231d", "drop"))),
    Line("Solara", "Juice", "bottle", (82, 236, 82), "#fffdf2", "#d4570f", "burst", "#f0952a", (0.86, 1.0),
         (("Mango", "#f9cf3f", "fruit"), ("Peach", "#f6a987", "fruit"), ("Carrot", "#dd5a1a", "leaf"))),
    Line("Solara", "Iced Tea", "can", (68, 148, 68), "#e9efdc", "#1f5f57", "waves", "#3d9a86", (0.0, 0.13),
         (("Peach", "#ef9a6a", "fruit"), ("Mint", "#4fb08a", "leaf"), ("Hibiscus", "#b23a6a", "berries"))),
)
CATALOGUE = tuple(Product(line, *flavour) for line in LINES for flavour in line.flavours)

# Half the width of each shape from top (0) to bottom (1), and how far round edges curve, in parts of the height.
SILHOUETTES: dict[str, tuple[tuple[tuple[float, float], ...], float]] = {
    "box": (((0, 1), (1, 1)), 0),
    "bag": (((0, 0.97), (0.05, 0.97), (0.09, 0.95), (0.3, 1), (0.75, 1), (0.94, 0.96), (1, 0.97)), 0),
    "tin": (((0, 1), (0.13, 1), (0.131, 0.97), (0.97, 0.97), (0.971, 1), (1, 1)), 0.03),
    "can": (((0, 0.84), (0.03, 0.86), (0.07, 1), (0.94, 1), (1, 0.86)), 0.03),
    "jar": (((0, 0.86), (0.15, 0.86), (0.151, 0.8), (0.18, 0.8), (0.25, 1), (0.95, 1), (1, 0.9)), 0.03),
    "bottle": (((0, 0.38), (0.1, 0.38), (0.101, 0.33), (0.2, 0.35), (0.37, 1), (0.96, 1), (1, 0.9)), 0.02),
}
# fmt: on
LABELS = {
    "jar": (0.28, 0.93),
    "bottle": (0.42, 0.93),
    "tin": (0.14, 0.97),
    "can": (0.06, 0.95),
}  # top, bottom; else all
LIDS = {"jar": 0.15, "bottle": 0.1, "tin": 0.13}


def bgr(code: str) -> Array:
    return np.array([int(code[at : at + 2], 16) for at in (5, 3, 1)], np.float32)


def mix(a: Array, b: Array, share: float | Array) -> Array:
    return a + (b - a) * share


WHITE, BLACK, RED, CREAM = bgr("#ffffff"), bgr("#141414"), bgr("#b3261f"), bgr("#f7f1df")


def opaque(pixels: Array) -> Array:
    """Return BGR pixels as a premultiplied BGRA texture."""
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


@cache
def lettering(words: str, italic: bool) -> Array:
    """Return `words` as a tight uint8 mask. Measured by its pixels: OpenCV 4 and 5 differ in fonts and text sizes."""
    import cv2

    mask = np.zeros((160, 80 * len(words) + 80), np.uint8)
    font = cv2.FONT_HERSHEY_SCRIPT_COMPLEX if italic else cv2.FONT_HERSHEY_DUPLEX
    cv2.putText(mask, words, (30, 105), font, 3, 255, 6, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(mask)
    return mask[y : y + h, x : x + w]


class Sheet:
    """Paper to print on. Positions are in units of `scale` mm from `origin`; `at` gives the same paper in other units."""

    def __init__(self, pixels: Array, origin: Any = (0, 0), scale: Any = (1, 1)) -> None:
        self.pixels, self.origin, self.scale = pixels, np.array(origin, float), np.array(scale, float)

    @classmethod
    def of(cls, width: float, height: float, top: Array, bottom: Array) -> Sheet:
        """Return paper of width x height mm whose colour runs from `top` to `bottom`."""
        share = np.linspace(0, 1, round(height * PX_PER_MM), dtype=np.float32)[:, None, None]
        return cls(mix(top, bottom, share).repeat(round(width * PX_PER_MM), 1).astype(np.uint8), scale=(width, height))

    def at(self, x: float, y: float, w: float, h: float) -> Sheet:
        return Sheet(self.pixels, self.origin + self.scale * (x, y), self.scale * (w, h))

    def polygon(self, points: Any, ink: Array) -> None:
        import cv2

        pixels = (np.array(points) * self.scale + self.origin) * PX_PER_MM
        cv2.fillPoly(self.pixels, [np.round(pixels * 16).astype(np.int32)], ink.tolist(), cv2.LINE_AA, 4)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, ink: Array) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ink)

    def ellipse(self, x: float, y: float, rx: float, ry: float, ink: Array, turn: float = 0, arc: Any = (0, 2)) -> None:
        """Fill an ellipse turned by `turn` radians, or the part of it between two angles in units of pi."""
        angles = np.linspace(arc[0], arc[1], 60) * np.pi
        spoke = np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1)
        self.polygon((x, y) + spoke @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], ink)

    def text(self, words: str, x: float, y: float, w: float, h: float, ink: Array, *, italic: bool = False) -> None:
        """Print `words` as large as fits into w x h around the middle (x, y)."""
        import cv2

        mask = lettering(words, italic)
        scale = min(self.scale * (w, h) / mask.shape[::-1]) * PX_PER_MM
        mask = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        middle = (self.scale * (x, y) + self.origin) * PX_PER_MM
        left, top = np.maximum(0, np.round(middle - np.array(mask.shape[::-1]) / 2)).astype(int)
        under = self.pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
        under[:] = mix(
            under.astype(np.float32), ink, mask[: len(under), : under.shape[1], None].astype(np.float32) / 255
        )


def print_icon(pen: Sheet, kind: str, ink: Array) -> None:
    """Print an icon of radius 1 around (0, 0)."""
    light, green = mix(ink, WHITE, 0.45), bgr("#4c8a3a")
    if kind == "fruit":
        pen.ellipse(0, 0.1, 0.85, 0.8, ink)
        pen.ellipse(-0.3, -0.15, 0.22, 0.3, light, 0.6)
        pen.ellipse(0.3, -0.8, 0.4, 0.16, green, -0.5)
    elif kind == "berries":
        for x, y in ((-0.4, 0.3), (0.4, 0.3), (0, -0.35)):
            pen.ellipse(x, y, 0.5, 0.5, ink)
            pen.ellipse(x - 0.15, y - 0.15, 0.13, 0.13, light)
    elif kind == "leaf":
        pen.ellipse(0, 0, 1, 0.45, ink, -0.7)
        pen.ellipse(0, 0, 0.85, 0.06, light, -0.7)
    elif kind == "bean":
        pen.ellipse(0, 0, 1, 0.68, ink, -0.6)
        pen.ellipse(0, 0, 0.8, 0.09, light, -0.75)
    elif kind == "drop":
        pen.ellipse(0, 0.3, 0.65, 0.65, ink)
        pen.polygon([(-0.58, 0), (0, -1), (0.58, 0)], ink)
        pen.ellipse(-0.22, 0.3, 0.14, 0.25, light)
    elif kind == "star":
        angles, radii = np.arange(10) * np.pi / 5 - np.pi / 2, np.where(np.arange(10) % 2, 0.42, 1)
        pen.polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1), ink)


def print_bowl(pen: Sheet, line: Line, accent: Array) -> None:
    rng = np.random.default_rng(0)
    for a, b, tone, turn in rng.uniform(size=(150, 4)):  # flakes heaped over the rim
        y = 0.1 - b**1.5 * 0.42 * np.sqrt(1 - (2 * a - 1) ** 2)
        pen.ellipse((2 * a - 1) * 0.38, y, 0.045, 0.04, mix(bgr("#d59a4c"), bgr("#8a5526"), tone), turn * 3)
    pen.ellipse(0, 0.08, 0.46, 0.42, WHITE, 0, (0, 1))
    pen.ellipse(0, 0.08, 0.46, 0.42, mix(WHITE, accent, 0.55), 0, (0.02, 0.5))
    pen.rectangle(-0.46, 0.06, 0.46, 0.1, accent)


def print_hills(pen: Sheet, line: Line, accent: Array) -> None:
    pen.ellipse(0.18, -0.22, 0.18, 0.16, accent)
    pen.ellipse(-0.2, 0.5, 0.6, 0.45, mix(bgr("#a8c58a"), accent, 0.5), 0, (1, 2))
    pen.ellipse(0.25, 0.5, 0.55, 0.3, bgr("#7fae6a"), 0, (1, 2))
    for step in range(9):  # an ear of oats
        right = step % 2
        pen.ellipse(-0.205 + right * 0.09, 0.3 - step * 0.07, 0.06, 0.035, bgr("#caa24e"), 0.8 - 1.6 * right)


def print_strands(pen: Sheet, line: Line, accent: Array) -> None:
    pen.rectangle(-0.36, -0.5, 0.36, 0.5, mix(accent, BLACK, 0.15))  # a window onto the pasta
    for step, x in enumerate(np.linspace(-0.34, 0.32, 17)):
        pen.rectangle(x, -0.5, x + 0.02, 0.5, mix(bgr("#e9c671"), bgr("#cf9f45"), step * 7 % 5 / 4))


def print_tomatoes(pen: Sheet, line: Line, accent: Array) -> None:
    for x, y, r in ((-0.24, 0.06, 0.24), (0.24, 0.02, 0.26), (0.0, 0.14, 0.28)):
        print_icon(pen.at(x, y, r, r * pen.scale[0] / pen.scale[1]), "fruit", bgr("#cf2f22"))


def print_peaks(pen: Sheet, line: Line, accent: Array) -> None:
    for x, high, share in ((-0.22, 0.62, 0.25), (0.24, 0.75, 0.4), (0.0, 1.0, 0.6)):
        tone = mix(bgr(line.paper), accent, share)
        for half, foot, ink in ((0.36, 0.5, tone), (0.09, 0.5 - high * 0.75, mix(tone, WHITE, 0.7))):
            pen.polygon([(x - half, foot), (x, 0.5 - high), (x + half, foot)], ink)


def print_burst(pen: Sheet, line: Line, accent: Array) -> None:
    for step in range(16):
        angles = np.array([step - 0.25, step + 0.25]) * np.pi / 8
        rim = np.stack([0.6 * np.cos(angles), (0.9 * np.sin(angles)).clip(-0.55, 0.55)], 1)
        pen.polygon([(0, 0), *rim], mix(bgr(line.paper), accent, 0.5))
    icon = "bean" if line.category == "Cocoa" else "fruit"
    print_icon(pen.at(0, 0, 0.3, 0.3 * pen.scale[0] / pen.scale[1]), icon, mix(accent, bgr(line.ink), 0.35))


def print_waves(pen: Sheet, line: Line, accent: Array) -> None:
    x = np.linspace(-0.6, 0.6, 40)
    for step in range(4):
        y = -0.3 + step * 0.25 + np.sin(x * 5.4 + step) * 0.08
        points = np.stack([np.r_[x, x[::-1]], np.r_[y, y[::-1] + 0.16]], 1)
        pen.polygon(points, mix(bgr(line.paper), accent, 0.3 + 0.2 * step))


ART = {
    "bowl": print_bowl, "hills": print_hills, "strands": print_strands, "tomatoes": print_tomatoes,
    "peaks": print_peaks, "burst": print_burst, "waves": print_waves,
}  # fmt: skip


def print_brand(pen: Sheet, brand: str, ink: Array, paper: Array) -> None:
    if brand == "Norda":
        pen.rectangle(0.1, 0.05, 0.9, 0.2, ink)
        pen.text("NORDA", 0.5, 0.125, 0.66, 0.085, paper)
    elif brand == "Casa Lume":
        pen.ellipse(0.5, 0.13, 0.44, 0.1, RED)
        pen.ellipse(0.5, 0.13, 0.41, 0.085, CREAM)
        pen.text(brand, 0.5, 0.13, 0.62, 0.09, RED, italic=True)
    elif brand == "Kimaro":
        pen.text("KIMARO", 0.5, 0.12, 0.72, 0.11, ink)
        pen.rectangle(0.14, 0.195, 0.86, 0.205, ink)
    else:
        pen.ellipse(0.5, 0.24, 0.4, 0.22, bgr("#f7c843"), 0, (1, 2))
        pen.text(brand, 0.5, 0.15, 0.66, 0.1, ink, italic=True)


@cache
def front(product: Product) -> Array:
    """Return the front of a package as premultiplied BGRA uint8."""
    line, shape = product.line, product.line.shape
    w, h, _ = line.size
    paper, ink, tone = bgr(line.paper), bgr(line.ink), bgr(product.tone)
    content = {"jar": bgr("#9c2b17"), "bottle": mix(tone, WHITE, 0.1)}.get(shape, paper)
    sheet = Sheet.of(w, h, mix(content, WHITE, 0.08), mix(content, BLACK, 0.1))
    top, bottom = LABELS.get(shape, (0.0, 1.0))
    if shape in LABELS:
        sheet.rectangle(0, top, 1, bottom, paper)
    if shape in LIDS:
        sheet.rectangle(0, 0, 1, LIDS[shape], bgr("#c9a24a") if shape == "tin" else mix(tone, ink, 0.2))
    label = sheet.at(0, top, 1, bottom - top)
    low, high = line.band
    body = label.at(0, 0.02 + (high if low == 0 else 0), 1, 0.92)
    ART[line.art](body.at(0.5, 0.56, 0.86, 0.4), line, mix(bgr(line.accent), tone, TINT))
    print_brand(body, line.brand, ink, paper)
    body.text(line.category.upper(), 0.5, 0.29, 0.6, 0.05, ink)
    body.text(f"{w * h // 400 * 10} g", 0.8, 0.82, 0.2, 0.03, ink)
    body.text("100% natural", 0.3, 0.82, 0.34, 0.026, ink)
    label.rectangle(0, low, 1, high, tone)
    middle, room = (low + high) / 2, high - low
    label.text(product.flavour, 0.56, middle, 0.6, room * 0.62, WHITE if tone @ (0.11, 0.59, 0.3) < 165 else BLACK)
    radius = min(0.1, 0.42 * room * label.scale[1] / w)
    print_icon(label.at(0.14, middle, radius, radius * w / label.scale[1]), product.icon, mix(tone, WHITE, 0.3))
    return mould(shape, sheet.pixels)


TINT = 0.4  # how far the picture's accent follows the flavour: at 1 the flavours are easy to tell, at 0 only band and lid differ


@cache
def side(product: Product) -> Array:
    """Return the side of a box: its paper, darker, with the table of contents nobody reads."""
    _, h, depth = product.line.size
    paper, ink = mix(bgr(product.line.paper), BLACK, 0.14), bgr(product.line.ink)
    sheet = Sheet.of(depth, h, paper, mix(paper, BLACK, 0.1))
    for step in range(12):
        y = 0.45 + step * 0.03
        sheet.rectangle(0.16, y, 0.5 + 0.07 * (step * 7 % 5), y + 0.009, mix(paper, ink, 0.6))
    sheet.rectangle(0, 0.06, 1, 0.2, ink)
    sheet.rectangle(0, product.line.band[0], 1, product.line.band[1], bgr(product.tone))
    return opaque(sheet.pixels)


def top_colour(product: Product) -> Array:
    return mix(bgr(product.line.paper), WHITE, 0.2)


def mould(shape: str, print_: Array) -> Array:
    """Give a flat print the outline, curvature and gloss of its package; return premultiplied BGRA uint8."""
    import cv2

    high, wide = print_.shape[:2]
    y, x = np.linspace(0, 1, high)[:, None], np.linspace(-1, 1, wide)[None]
    outline, curve = SILHOUETTES[shape]
    half = np.interp(y, *np.array(outline).T)
    across = np.clip(x / half, -1, 1)
    edge = (half - abs(x)) * wide / 2  # distance inside the outline, in pixels
    if curve:
        drop = curve * (1 - np.sqrt(1 - across**2))
        edge = np.minimum(edge, np.minimum(y - drop, 1 - drop - y) * high)
        shade = 0.42 + 0.62 * (1 - across**2) ** 0.4 - 0.08 * across
        gloss = 0.30 * np.exp(-(((across + 0.45) / 0.10) ** 2)) + 0.08 * np.exp(-(((across - 0.7) / 0.06) ** 2))
    elif shape == "bag":
        wrinkles = cv2.resize(
            np.random.default_rng(5).normal(size=(14, 6)), (wide, high), interpolation=cv2.INTER_CUBIC
        )
        crimp = ((y < 0.05) | (y > 0.95)) * np.sin(y * high * 0.9) * 0.12
        shade = 0.84 + 0.18 * np.sqrt(1 - across**2) * abs(np.sin(np.pi * y)) ** 0.3 + 0.05 * wrinkles + crimp
        gloss = 0.10 * np.clip(wrinkles - 0.5, 0, 1) + 0.10 * np.exp(-(((across + 0.6) / 0.12) ** 2))
    else:
        shade = 1.0 + 0.03 * x - 0.06 * (abs(x) > 0.985) + 0 * y
        gloss = 0.05 * np.exp(-(((x + y - 0.4) / 0.5) ** 2))
    alpha = np.clip(edge + 0.5, 0, 1)[..., None]
    colour = np.clip(print_ * shade[..., None] + 255 * gloss[..., None], 0, 255)
    return np.concatenate([colour * alpha, 255 * alpha], 2).round().astype(np.uint8)
