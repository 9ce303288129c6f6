#!/usr/bin/env python3
"""Draw annotated photographs of supermarket shelves: the padding study's demo data.

  python examples/make_shelf.py --output_root demo/shelf
  python examples/make_shelf.py --output_root big --shelves 60 --photos_per_shelf 4 --seed 7

Writes images/, annotations_sku.json, and the same boxes as COCO in train.json, val.json and test.json. A class is brand,
category and flavour. A shelf's photographs all stand in one split. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import cli, files

Array = np.ndarray
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive

# ---------------------------------------------------------------- what stands on the shelves


@dataclass(frozen=True)
class Line:
    """Packages of one brand and category: one design, of which the flavours change a word, a tone and a small icon."""

    brand: str
    category: str
    shape: str  # a key of SILHOUETTES
    size: tuple[int, int, int]  # width, height, depth in mm
    paper: str
    ink: str
    art: str
    accent: str  # colour of the band with the flavour's name ...
    shift: float  # ... and how far each flavour moves it to its own tone, 0 to 1
    band: tuple[float, float]  # where on the label, in parts of its height
    flavours: tuple[tuple[str, str, str], ...]  # name, tone, icon


LINES = (
    Line("Norda", "Muesli", "box", (142, 226, 52), "#f2e4c8", "#23443a", "bowl", "#b98a3c", 1.0, (0.91, 1.0),
         (("Honey", "#e3a51c", "drop"), ("Berry", "#9a2f55", "berries"), ("Apple", "#6f9c33", "fruit"))),
    Line("Norda", "Oat Drink", "box", (84, 214, 84), "#dfeaf2", "#23443a", "hills", "#6f9fbd", 1.0, (0.0, 0.09),
         (("Natural", "#7fa7c9", "drop"), ("Vanilla", "#e6c65a", "star"), ("Barista", "#7a5a43", "bean"))),
    Line("Casa Lume", "Pasta", "bag", (116, 236, 40), "#1d3f86", "#ffffff", "strands", "#c9302c", 1.0, (0.9, 1.0),
         (("Spaghetti", "#c9302c", "star"), ("Linguine", "#4d9a54", "star"), ("Bucatini", "#8a3f9c", "star"))),
    Line("Casa Lume", "Sauce", "jar", (88, 152, 88), "#f7f1df", "#8e1f1c", "tomatoes", "#3d6b35", 1.0, (0.84, 1.0),
         (("Basilico", "#2f7d32", "leaf"), ("Arrabbiata", "#c2261d", "star"), ("Funghi", "#8b6b4a", "drop"))),
    Line("Kimaro", "Coffee", "bag", (112, 206, 60), "#2b2320", "#f0dfc0", "peaks", "#b5793a", 1.0, (0.9, 1.0),
         (("Colombia", "#d0a12a", "bean"), ("Ethiopia", "#b4472c", "bean"), ("Sumatra", "#3f6f9a", "bean"))),
    Line("Kimaro", "Cocoa", "tin", (98, 146, 98), "#5a2d1f", "#f6e3b4", "burst", "#d8b15a", 1.0, (0.86, 1.0),
         (("Dark 85", "#3a1d18", "star"), ("Orange", "#df7a1f", "fruit"), ("Chili", "#b8231d", "drop"))),
    Line("Solara", "Juice", "bottle", (82, 236, 82), "#fffdf2", "#d4570f", "burst", "#f0952a", 1.0, (0.86, 1.0),
         (("Mango", "#f9cf3f", "fruit"), ("Peach", "#f6a987", "fruit"), ("Carrot", "#dd5a1a", "leaf"))),
    Line("Solara", "Iced Tea", "can", (68, 148, 68), "#e9efdc", "#1f5f57", "waves", "#3d9a86", 1.0, (0.0, 0.13),
         (("Peach", "#ef9a6a", "fruit"), ("Mint", "#4fb08a", "leaf"), ("Hibiscus", "#b23a6a", "berries"))),
)  # fmt: skip


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
        return "-".join(word.upper().replace(" ", "") for word in self.classes)


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
LABELS = {
    "jar": (0.28, 0.93),
    "bottle": (0.42, 0.93),
    "tin": (0.14, 0.97),
    "can": (0.06, 0.95),
}  # top, bottom; else all
LIDS = {"jar": 0.15, "bottle": 0.1, "tin": 0.13}

# ---------------------------------------------------------------- printing: textures, premultiplied BGRA

PX_PER_MM = 2.4


def bgr(code: str) -> Array:
    return np.array([int(code[at : at + 2], 16) for at in (5, 3, 1)], np.float32)


def mix(a: Array, b: Array, share: float) -> Array:
    return a + (b - a) * share


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
    """A surface to print on; coordinates in mm."""

    def __init__(self, w: float, h: float, top: Array, bottom: Array | None = None) -> None:
        rows = np.linspace(0, 1, round(h * PX_PER_MM), dtype=np.float32)[:, None, None]
        self.w, self.h = w, h
        self.pixels = mix(top, top if bottom is None else bottom, rows).repeat(round(w * PX_PER_MM), 1).astype(np.uint8)

    def polygon(self, points: Any, ink: Array) -> None:
        import cv2

        fixed = np.round(np.array(points, np.float64) * PX_PER_MM * 16).astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], ink.tolist(), cv2.LINE_AA, 4)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, ink: Array) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ink)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, ink: Array, turn: float = 0.0, arc: tuple[float, float] = (0, 2)
    ) -> None:
        angles = np.linspace(*arc, 60) * np.pi
        cos, sin = np.cos(turn), np.sin(turn)
        a, b = rx * np.cos(angles), ry * np.sin(angles)
        self.polygon(np.stack([x + a * cos - b * sin, y + a * sin + b * cos], 1), ink)

    def text(self, words: str, x: float, y: float, w: float, h: float, ink: Array, *, italic: bool = False) -> None:
        """Print `words` as large as fits into w x h mm around the centre (x, y)."""
        import cv2

        mask = lettering(words, italic)
        scale = min(w / mask.shape[1], h / mask.shape[0]) * PX_PER_MM
        mask = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        high, wide = mask.shape
        left, top = max(0, round(x * PX_PER_MM - wide / 2)), max(0, round(y * PX_PER_MM - high / 2))
        area = self.pixels[top : top + high, left : left + wide]
        mask = mask[: area.shape[0], : area.shape[1], None]
        area[:] = mix(area.astype(np.float32), ink, mask.astype(np.float32) / 255)


WHITE, BLACK, LEAF = bgr("#ffffff"), bgr("#141414"), bgr("#4c8a3a")


def print_icon(sheet: Sheet, kind: str, x: float, y: float, r: float, ink: Array) -> None:
    light = mix(ink, WHITE, 0.45)
    if kind == "fruit":
        sheet.ellipse(x, y + r * 0.1, r * 0.85, r * 0.8, ink)
        sheet.ellipse(x - r * 0.3, y - r * 0.15, r * 0.22, r * 0.3, light, 0.6)
        sheet.ellipse(x + r * 0.3, y - r * 0.8, r * 0.4, r * 0.16, LEAF, -0.5)
    elif kind == "berries":
        for dx, dy in ((-0.4, 0.3), (0.4, 0.3), (0, -0.35)):
            sheet.ellipse(x + dx * r, y + dy * r, r * 0.5, r * 0.5, ink)
            sheet.ellipse(x + dx * r - r * 0.15, y + dy * r - r * 0.15, r * 0.13, r * 0.13, light)
    elif kind == "leaf":
        sheet.ellipse(x, y, r, r * 0.45, ink, -0.7)
        sheet.ellipse(x, y, r * 0.85, r * 0.06, light, -0.7)
    elif kind == "bean":
        sheet.ellipse(x, y, r, r * 0.68, ink, -0.6)
        sheet.ellipse(x, y, r * 0.8, r * 0.09, light, -0.75)
    elif kind == "drop":
        sheet.ellipse(x, y + r * 0.3, r * 0.65, r * 0.65, ink)
        sheet.polygon([(x - r * 0.58, y), (x, y - r), (x + r * 0.58, y)], ink)
        sheet.ellipse(x - r * 0.22, y + r * 0.3, r * 0.14, r * 0.25, light)
    elif kind == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.42, 1.0) * r
        sheet.polygon(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1), ink)


def print_art(sheet: Sheet, line: Line, accent: Array, x: float, y: float, w: float, h: float) -> None:
    """Print the picture that all flavours of a line share, into w x h mm around (x, y)."""
    rng = np.random.default_rng(len(line.art) * 100 + len(line.category))
    ink, paper = bgr(line.ink), bgr(line.paper)
    if line.art == "bowl":
        for _ in range(150):  # flakes heaped over the rim
            a, b = rng.uniform(-1, 1), rng.uniform(0, 1) ** 1.5
            at = (x + a * w * 0.38, y + h * 0.1 - b * h * 0.42 * np.sqrt(1 - a * a))
            sheet.ellipse(
                *at, w * 0.045, w * 0.03, mix(bgr("#d59a4c"), bgr("#8a5526"), rng.random()), rng.uniform(0, 3)
            )
        sheet.ellipse(x, y + h * 0.08, w * 0.46, h * 0.42, WHITE, 0, (0, 1))
        sheet.ellipse(x, y + h * 0.08, w * 0.46, h * 0.42, mix(WHITE, accent, 0.55), 0, (0.02, 0.5))
        sheet.rectangle(x - w * 0.46, y + h * 0.06, x + w * 0.46, y + h * 0.1, accent)
    elif line.art == "hills":
        sheet.ellipse(x + w * 0.18, y - h * 0.22, w * 0.18, w * 0.18, accent)
        sheet.ellipse(x - w * 0.2, y + h * 0.5, w * 0.6, h * 0.45, mix(bgr("#a8c58a"), accent, 0.5), 0, (1, 2))
        sheet.ellipse(x + w * 0.25, y + h * 0.5, w * 0.55, h * 0.3, bgr("#7fae6a"), 0, (1, 2))
        for step in range(9):  # an ear of oats
            sheet.ellipse(
                x - w * 0.16 + (step % 2 - 0.5) * w * 0.09,
                y + h * (0.3 - step * 0.07),
                w * 0.06,
                h * 0.035,
                bgr("#caa24e"),
                0.8 - 1.6 * (step % 2),
            )
    elif line.art == "strands":  # a window onto the pasta
        sheet.rectangle(x - w * 0.36, y - h * 0.5, x + w * 0.36, y + h * 0.5, mix(accent, BLACK, 0.15))
        for step in np.linspace(-0.34, 0.32, 17):
            tone = mix(bgr("#e9c671"), bgr("#cf9f45"), rng.random())
            sheet.rectangle(x + step * w, y - h * 0.5, x + step * w + w * 0.018, y + h * 0.5, tone)
    elif line.art == "peaks":
        for dx, high, share in ((-0.22, 0.62, 0.25), (0.24, 0.75, 0.4), (0.0, 1.0, 0.6)):
            tone = mix(paper, accent, share)
            sheet.polygon(
                [
                    (x + (dx - 0.36) * w, y + h * 0.5),
                    (x + dx * w, y + h * (0.5 - high)),
                    (x + (dx + 0.36) * w, y + h * 0.5),
                ],
                tone,
            )
            snow = mix(tone, WHITE, 0.7)
            sheet.polygon(
                [
                    (x + (dx - 0.09) * w, y + h * (0.5 - high * 0.75)),
                    (x + dx * w, y + h * (0.5 - high)),
                    (x + (dx + 0.09) * w, y + h * (0.5 - high * 0.75)),
                ],
                snow,
            )
    elif line.art == "burst":
        for step in range(16):
            angles = np.array([step - 0.25, step + 0.25]) * np.pi / 8
            rim = np.stack([x + w * 0.6 * np.cos(angles), y + w * 0.6 * np.sin(angles)], 1)
            rim[:, 1] = rim[:, 1].clip(y - h * 0.55, y + h * 0.55)
            sheet.polygon([(x, y), *rim], mix(paper, accent, 0.5))
        print_icon(sheet, "fruit" if line.category == "Juice" else "bean", x, y, w * 0.3, mix(accent, ink, 0.35))
    elif line.art == "waves":
        for step in range(4):
            along = np.linspace(0, sheet.w, 40)
            crest = y - h * 0.3 + step * h * 0.25 + np.sin(along / sheet.w * 6.3 + step) * h * 0.08
            points = np.stack([np.r_[along, along[::-1]], np.r_[crest, crest[::-1] + h * 0.16]], 1)
            sheet.polygon(points, mix(paper, accent, 0.3 + 0.2 * step))
    elif line.art == "tomatoes":
        for dx, dy, r in ((-0.24, 0.06, 0.24), (0.24, 0.02, 0.26), (0.0, 0.14, 0.28)):
            print_icon(sheet, "fruit", x + dx * w, y + dy * h, r * w, bgr("#cf2f22"))


def band_colour(product: Product) -> Array:
    return mix(bgr(product.line.accent), bgr(product.tone), product.line.shift)


@cache
def front(product: Product) -> Array:
    """Return the front of a package as premultiplied BGRA uint8."""
    line = product.line
    w, h, _ = line.size
    paper, ink = bgr(line.paper), bgr(line.ink)
    band = band_colour(product)
    content = {"jar": bgr("#9c2b17"), "bottle": mix(band, WHITE, 0.1)}.get(line.shape, paper)
    sheet = Sheet(w, h, mix(content, WHITE, 0.08), mix(content, BLACK, 0.1))
    top, bottom = (h * part for part in LABELS.get(line.shape, (0.0, 1.0)))
    high, middle = bottom - top, w / 2
    if line.shape in LABELS:
        sheet.rectangle(0, top, w, bottom, paper)
    if line.shape in LIDS:
        sheet.rectangle(0, 0, w, h * LIDS[line.shape], bgr("#c9a24a") if line.shape == "tin" else mix(band, ink, 0.2))
    head = top + high * (0.1 if line.band[0] < 0.1 else 0.02)  # the printing leaves room for a band at the top
    print_art(sheet, line, mix(bgr(line.accent), band, 0.45), middle, head + high * 0.54, w * 0.86, high * 0.36)
    if line.brand == "Norda":
        sheet.rectangle(w * 0.1, head + high * 0.05, w * 0.9, head + high * 0.2, ink)
        sheet.text(line.brand.upper(), middle, head + high * 0.125, w * 0.66, high * 0.085, paper)
    elif line.brand == "Casa Lume":
        sheet.ellipse(middle, head + high * 0.13, w * 0.44, high * 0.1, bgr("#c9302c"))
        sheet.ellipse(middle, head + high * 0.13, w * 0.41, high * 0.085, bgr("#f7f1df"))
        sheet.text(line.brand, middle, head + high * 0.13, w * 0.62, high * 0.09, bgr("#a31d1a"), italic=True)
    elif line.brand == "Kimaro":
        sheet.text("KIMARO", middle, head + high * 0.12, w * 0.72, high * 0.11, ink)
        sheet.rectangle(w * 0.14, head + high * 0.195, w * 0.86, head + high * 0.205, bgr(line.accent))
    else:
        sheet.ellipse(middle, head + high * 0.24, w * 0.4, high * 0.22, bgr("#f7c843"), 0, (1, 2))
        sheet.text("Solara", middle, head + high * 0.15, w * 0.66, high * 0.1, ink, italic=True)
    sheet.text(line.category.upper(), middle, head + high * 0.285, w * 0.6, high * 0.05, ink)
    low, lower = (top + high * part for part in line.band)
    sheet.rectangle(0, low, w, lower, band)
    on_band = WHITE if band @ (0.11, 0.59, 0.3) < 165 else BLACK
    aside = 0.12 if product.icon else 0.0
    sheet.text(
        product.flavour, w * (0.5 + aside / 1.6), (low + lower) / 2, w * (0.72 - aside), (lower - low) * 0.6, on_band
    )
    if product.icon:
        print_icon(
            sheet,
            product.icon,
            w * 0.15,
            (low + lower) / 2,
            min(w * 0.1, (lower - low) * 0.42),
            mix(bgr(product.tone), WHITE, 0.15),
        )
    small = top + high * (0.775 if line.band[0] > 0.75 else 0.93)
    sheet.text(f"{w * h // 400 * 10} g", w * 0.8, small, w * 0.2, high * 0.028, ink)
    sheet.text("100% natural", w * 0.3, small, w * 0.34, high * 0.024, ink)
    return mould(line.shape, sheet.pixels)


def mould(shape: str, print_: Array) -> Array:
    """Give a flat print the outline, curvature and gloss of its package."""
    import cv2

    high, wide = print_.shape[:2]
    y, x = np.linspace(0, 1, high, dtype=np.float32)[:, None], np.linspace(-1, 1, wide, dtype=np.float32)[None]
    outline, curve = SILHOUETTES[shape]
    half = np.interp(y, *np.array(outline).T).astype(np.float32)
    across = np.clip(x / half, -1, 1)
    edge = (half - abs(x)) * wide / 2
    if curve:
        drop = curve * (1 - np.sqrt(1 - across**2))
        edge = np.minimum(edge, np.minimum(y - drop, 1 - drop - y) * high)
        shade = 0.42 + 0.62 * (1 - across**2) ** 0.4 - 0.08 * across
        gloss = 0.30 * np.exp(-(((across + 0.45) / 0.10) ** 2)) + 0.08 * np.exp(-(((across - 0.7) / 0.06) ** 2))
    elif shape == "bag":
        wrinkles = np.random.default_rng(5).normal(size=(14, 6)).astype(np.float32)
        wrinkles = cv2.resize(wrinkles, (wide, high), interpolation=cv2.INTER_CUBIC)
        crimp = ((y < 0.05) | (y > 0.95)) * np.sin(y * high * 0.9) * 0.12
        shade = 0.84 + 0.18 * np.sqrt(1 - across**2) * abs(np.sin(np.pi * y)) ** 0.3 + 0.05 * wrinkles + crimp
        gloss = 0.10 * np.clip(wrinkles - 0.5, 0, 1) + 0.10 * np.exp(-(((across + 0.6) / 0.12) ** 2))
    else:
        shade = 1.0 + 0.03 * x - 0.06 * (abs(x) > 0.985) + 0 * y
        gloss = 0.05 * np.exp(-(((x + y - 0.4) / 0.5) ** 2))
    alpha = np.clip(edge + 0.5, 0, 1)[..., None]
    colour = np.clip(print_ * shade[..., None] + 255 * gloss[..., None], 0, 255)
    return np.concatenate([colour * alpha, 255 * alpha], 2).round().astype(np.uint8)


@cache
def side(product: Product) -> Array:
    """Return the side of a box: its paper, darker, with the table of contents nobody reads."""
    _, h, depth = product.line.size
    paper, ink = mix(bgr(product.line.paper), BLACK, 0.14), bgr(product.line.ink)
    sheet = Sheet(depth, h, paper, mix(paper, BLACK, 0.1))
    for step in range(12):
        at = h * (0.45 + step * 0.03)
        sheet.rectangle(depth * 0.16, at, depth * (0.5 + 0.07 * (step * 7 % 5)), at + h * 0.009, mix(paper, ink, 0.6))
    sheet.rectangle(0, h * 0.06, depth, h * 0.2, ink)
    return opaque(sheet.pixels)


def opaque(pixels: Array) -> Array:
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


def shade_texture(column: Sequence[float], row: Sequence[float] = (1.0,)) -> Array:
    """Return black of the opacity `column` (top to bottom) times `row` (left to right), smoothly interpolated."""
    y = np.interp(np.linspace(0, len(column) - 1, 64), range(len(column)), column)
    x = np.interp(np.linspace(0, len(row) - 1, 64), range(len(row)), row)
    texture = np.zeros((64, 64, 4), np.uint8)
    texture[..., 3] = 255 * y[:, None] * x[None]
    return texture


# ---------------------------------------------------------------- arranging: which package stands where

TIERS, BAY_WIDTH, TIER_HEIGHT, DEPTH, BOARD = 3, 790.0, 290.0, 330.0, 30.0  # mm
HEADER, KICK = 110.0, 90.0  # mm above and below the tiers
SPLIT_OF = ("test", "train", "val", "test", "train")  # shelf by shelf, over and over


@dataclass(frozen=True)
class Facing:
    """One package at the front of a board; x is its middle, z how far it stands back, in mm; turn in radians."""

    product: Product
    tier: int
    x: float
    z: float
    turn: float


def arrange(shelves: int, seed: int) -> list[list[Facing]]:
    """Return the facings of each shelf. Every split deals through the whole catalogue, line by line, before it repeats."""
    decks = {split: deal(np.random.default_rng([seed, at])) for at, split in enumerate(("train", "val", "test"))}
    return [
        arrange_shelf(decks[SPLIT_OF[shelf % len(SPLIT_OF)]], np.random.default_rng([seed, 9, shelf]))
        for shelf in range(shelves)
    ]


def deal(rng: np.random.Generator) -> Iterator[Product]:
    while True:
        for line in rng.permutation(len(LINES)):
            same_line = [product for product in CATALOGUE if product.line is LINES[line]]
            yield from (same_line[at] for at in rng.permutation(len(same_line)))


def arrange_shelf(deck: Iterator[Product], rng: np.random.Generator) -> list[Facing]:
    facings: list[Facing] = []
    product = next(deck)
    for tier in range(TIERS):
        x = -BAY_WIDTH / 2 + rng.uniform(6, 20)
        while x + product.line.size[0] < BAY_WIDTH / 2 - 4:
            width = product.line.size[0]
            facings.append(Facing(product, tier, x + width / 2, rng.uniform(4, 34), rng.normal(0, 0.04)))
            x += width + max(-0.10 * width, rng.normal(8.0, 8.0)) + (rng.uniform(30, 80) if rng.random() < 0.05 else 0)
            product = product if rng.random() < 0.3 else next(deck)
    return facings


# ---------------------------------------------------------------- photographing


class Camera:
    """A pinhole camera before the bay. World: x right, y down from the top of the bay, z away from the viewer; mm."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        bay_height = HEADER + TIERS * TIER_HEIGHT + KICK
        distance = rng.uniform(1150, 1700)
        target = np.array([rng.normal(0, 18), bay_height / 2 + rng.normal(0, 22), 0])
        self.eye = target + [rng.uniform(-0.2, 0.2) * distance, rng.uniform(-0.16, 0.08) * distance, -distance]
        forward = (target - self.eye) / np.linalg.norm(target - self.eye)
        roll = rng.normal(0, 0.013)
        right = np.cross([np.sin(roll), np.cos(roll), 0], forward)
        right /= np.linalg.norm(right)
        self.axes = np.stack([right, np.cross(forward, right), forward])
        fit = min(width / (BAY_WIDTH + 90), height / (bay_height + 20))
        self.focal = fit * distance * rng.uniform(0.97, 1.12)
        self.middle = np.array([width / 2, height / 2])

    def project(self, points: Any) -> Array:
        """Return pixels (n, 2) of world points (n, 3)."""
        seen = (np.asarray(points, np.float64) - self.eye) @ self.axes.T
        return seen[:, :2] / seen[:, 2:] * self.focal + self.middle


def upright(x0: float, y0: float, x1: float, y1: float, z: float) -> list[tuple[float, float, float]]:
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def level(x0: float, x1: float, y: float, near: float, far: float) -> list[tuple[float, float, float]]:
    """A horizontal quad seen from above, far edge first."""
    return [(x0, y, far), (x1, y, far), (x1, y, near), (x0, y, near)]


class Picture:
    """A photograph being painted, back to front, at twice its size."""

    def __init__(self, width: int, height: int, camera: Camera) -> None:
        self.camera = camera
        self.pixels = np.zeros((2 * height, 2 * width, 3), np.uint8)

    def paint(self, texture: Array, corners: Any, light: float | Array = 1.0) -> None:
        """Paint a premultiplied BGRA texture onto a world quad (clockwise from the top left) unless it faces away."""
        import cv2

        quad = self.camera.project(corners) * 2
        following = np.roll(quad, -1, 0)
        if (quad[:, 0] * following[:, 1] - quad[:, 1] * following[:, 0]).sum() <= 1:
            return
        limit = np.array(self.pixels.shape[1::-1])
        low, high = np.floor(quad.min(0)).clip(0, limit).astype(int), np.ceil(quad.max(0)).clip(0, limit).astype(int)
        if (high <= low).any():
            return
        h, w = texture.shape[:2]
        flat = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(flat, (quad - low - 0.5).astype(np.float32))
        if not np.array_equal(light, 1.0):
            texture = (texture * np.append(light * np.ones(3), 1)).astype(np.uint8)
        patch = cv2.warpPerspective(texture, matrix, tuple((high - low).tolist()))
        area = self.pixels[low[1] : high[1], low[0] : high[0]]
        keep = cv2.cvtColor(255 - patch[..., 3], cv2.COLOR_GRAY2BGR)
        area[:] = cv2.add(cv2.multiply(area, keep, scale=1 / 255), cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR))


PLAIN = np.full((8, 8, 4), 255, np.uint8)
CONTACT = shade_texture((0.0, 0.55, 0.65), (0, 0.8, 1, 1, 0.8, 0))
UNDER_BOARD = shade_texture((0.62, 0.30, 0.10, 0.0))
GAP = shade_texture((0.35, 0.5, 0.55), (0, 1, 1, 0))
CABINETS = (  # board, back wall, header, its words
    ("#e8e8e4", "#b9bab6", "#2b5d4a", "PANTRY"), ("#d9c9a8", "#a8987c", "#3b2a20", "Corner Market"),
    ("#d3d6d8", "#a9adb0", "#b3392f", "FRESH & DRY"), ("#f1ede2", "#b9b3a4", "#1f4f86", "BREAKFAST & DRINKS"),
)  # fmt: skip


def place(facing: Facing, rng: np.random.Generator) -> Facing:
    """Return where a package stands on the next photograph: customers touch things."""
    return Facing(
        facing.product,
        facing.tier,
        facing.x + rng.normal(0, 1.5),
        max(0.0, facing.z + rng.normal(0, 3)),
        facing.turn + rng.normal(0, 0.025),
    )


def faces(facing: Facing) -> list[tuple[str, Array]]:
    """Return the world quads of a package, (name, (4, 3)), far ones first; round and soft ones have only a front."""
    width, high, deep = facing.product.line.size
    foot = HEADER + (facing.tier + 1) * TIER_HEIGHT - BOARD
    is_box = facing.product.line.shape == "box"
    turn = facing.turn if is_box or facing.product.line.shape == "bag" else 0.0
    cos, sin = np.cos(turn), np.sin(turn)
    ends = np.array([(-1, 0), (1, 0), (1, 1), (-1, 1)]) * [
        width / 2,
        deep,
    ]  # front left, front right, back right, back left
    x = facing.x + ends[:, 0] * cos - (ends[:, 1] - 0) * sin
    z = facing.z + ends[:, 0] * sin + ends[:, 1] * cos

    def wall(a: int, b: int) -> Array:
        return np.array([(x[a], foot - high, z[a]), (x[b], foot - high, z[b]), (x[b], foot, z[b]), (x[a], foot, z[a])])

    box = [
        ("side", wall(3, 0)),
        ("side", wall(1, 2)),
        ("top", np.array([(x[i], foot - high, z[i]) for i in (3, 2, 1, 0)])),
    ]
    return [*(box if is_box else []), ("front", wall(0, 1))]


def true_box(camera: Camera, facing: Facing) -> Array:
    """Return left, top, right, bottom of a package on the photograph, in pixels, also where it leaves the photograph."""
    corners = np.concatenate([camera.project(quad) for _, quad in faces(facing)])
    return np.concatenate([corners.min(0), corners.max(0)])


def paint_package(picture: Picture, facing: Facing, rng: np.random.Generator) -> None:
    import cv2

    product = facing.product
    width, high, _ = product.line.size
    foot = HEADER + (facing.tier + 1) * TIER_HEIGHT - BOARD
    left, right = facing.x - width / 2, facing.x + width / 2
    picture.paint(GAP, upright(left - 9, foot - high * 0.97, right + 9, foot, facing.z + 12))
    picture.paint(CONTACT, level(left - 8, right + 8, foot, facing.z - 16, facing.z + 10))
    for name, quad in faces(facing):
        if name == "front":
            texture = front(product)
            if rng.random() < 0.4 and product.line.shape != "jar":  # a lamp mirrored in the wrapping
                h, w = texture.shape[:2]
                y, x = np.mgrid[0:1:16j, 0:1:16j]
                glare = np.exp(-(((x * 0.7 + y - rng.uniform(0.2, 1.4)) / rng.uniform(0.05, 0.2)) ** 2)) * rng.uniform(
                    0, 0.25
                )
                glare = cv2.resize(glare.astype(np.float32), (w, h))[..., None]
                texture = texture.copy()
                texture[..., :3] = np.minimum(texture[..., 3:], texture[..., :3] + glare * texture[..., 3:])
            picture.paint(texture, quad)
        elif name == "side":
            picture.paint(side(product), quad, 0.75)
        else:
            picture.paint(
                PLAIN,
                quad,
                (band_colour(product) if product.line.band[0] == 0 else mix(bgr(product.line.paper), WHITE, 0.2)) / 255,
            )


@cache
def price_tag(name: str, price: str, offer: bool) -> Array:
    sheet = Sheet(54, 24, bgr("#ffd83a" if offer else "#fbfbf7"))
    sheet.text(price, 36, 9.5, 30, 12, bgr("#c3231c") if offer else BLACK)
    sheet.text(name, 33, 20.5, 34, 3.6, BLACK)
    for step in range(6):
        sheet.rectangle(4 + step * 2.3, 4, 5 + step * 2.3 + (step * 7 % 3) * 0.3, 20, bgr("#555555"))
    return opaque(sheet.pixels)


@cache
def header_sign(words: str, paint: str) -> Array:
    sheet = Sheet(BAY_WIDTH + 40, HEADER - 10, mix(bgr(paint), WHITE, 0.08), bgr(paint))
    sheet.text(words, sheet.w / 2, sheet.h / 2, sheet.w * 0.6, sheet.h * 0.42, bgr("#f6f1e2"), italic=words.istitle())
    return opaque(sheet.pixels)


@cache
def store_texture(at: int) -> Array:
    """Return the far side of the store, out of focus: shelves full of colours under a bright ceiling."""
    import cv2

    rng = np.random.default_rng(at)
    small = rng.uniform(60, 215, (14, 48, 3)) * np.array([0.85, 0.95, 1.0])
    small[:4] = (226, 230, 232)  # ceiling and wall
    small[5::3] *= 0.35  # the shade between its boards
    far = cv2.GaussianBlur(cv2.resize(small.astype(np.float32), (480, 280), interpolation=cv2.INTER_LINEAR), (0, 0), 5)
    return opaque((far * 0.8).clip(0, 255).astype(np.uint8))


@cache
def floor_texture() -> Array:
    sheet = Sheet(400, 400, bgr("#8d8a84"), bgr("#b5b1a8"))
    for at in range(0, 400, 25):
        sheet.rectangle(at, 0, at + 0.7, 400, bgr("#858179"))
        sheet.rectangle(0, at, 400, at + 0.7, bgr("#858179"))
    return opaque(sheet.pixels)


def paint_bay(picture: Picture, shelf: int, facings: Sequence[Facing], rng: np.random.Generator) -> None:
    board, wall, sign, words = CABINETS[shelf % len(CABINETS)]
    tone, half = bgr(board) / 255, BAY_WIDTH / 2
    foot = HEADER + TIERS * TIER_HEIGHT
    picture.pixels[:] = bgr("#8f9396").astype(np.uint8)
    picture.paint(store_texture(shelf % 3), upright(-3600, -1500, 3600, foot + KICK, 2600))
    picture.paint(floor_texture(), level(-2400, 2400, foot + KICK, -600, 2600))
    picture.paint(PLAIN, upright(-half, 0, half, foot, DEPTH), bgr(wall) / 255 * 0.72)
    for inward in (-half, half):  # the cabinet's cheeks, seen from inside
        near, far = (0.0, DEPTH) if inward < 0 else (DEPTH, 0.0)
        picture.paint(
            PLAIN, [(inward, 0, near), (inward, 0, far), (inward, foot, far), (inward, foot, near)], tone * 0.62
        )
    for tier in range(TIERS):
        top, ground = HEADER + tier * TIER_HEIGHT, HEADER + (tier + 1) * TIER_HEIGHT - BOARD
        picture.paint(UNDER_BOARD, upright(-half, top, half, ground, DEPTH - 1))
        picture.paint(PLAIN, level(-half, half, ground, 0, DEPTH), tone * 0.8)
        picture.paint(shade_texture((0.75, 0.5, 0.1)), level(-half, half, ground, 0, DEPTH))
        picture.paint(PLAIN, [(-half, top, 0), (half, top, 0), (half, top, DEPTH), (-half, top, DEPTH)], tone * 0.4)
        here = sorted((facing for facing in facings if facing.tier == tier), key=lambda facing: -facing.z)
        for row in (2, 1):  # the packages behind
            for facing in here:
                width, high, deep = facing.product.line.size
                z, left = facing.z + row * (deep + 6), facing.x - width / 2
                picture.paint(
                    front(facing.product), upright(left, ground - high, left + width, ground, z), 0.8 - 0.2 * row
                )
        for facing in here:
            paint_package(picture, facing, rng)
        picture.paint(UNDER_BOARD, upright(-half, top, half, top + 90, -1))
        picture.paint(PLAIN, upright(-half - 18, ground, half + 18, ground + BOARD, -8), tone)
        picture.paint(shade_texture((0.0, 0.0, 0.08, 0.35)), upright(-half - 18, ground, half + 18, ground + BOARD, -8))
        for at, facing in enumerate(sorted(here, key=lambda facing: facing.x)):
            offer = (at + shelf + tier) % 6 == 0
            tag = price_tag(
                facing.product.line.brand,
                f"{1 + (len(facing.product.sku_id) * 37 + at) % 5}.{(at * 3 + shelf) % 10}9",
                offer,
            )
            picture.paint(tag, upright(facing.x - 27, ground + 3, facing.x + 27, ground + 27, -10))
    for edge in (-half - 18, half):
        picture.paint(PLAIN, upright(edge, 0, edge + 18, foot + KICK, -8), tone * 0.93)
        picture.paint(shade_texture((0.1, 0.1), (0.3, 0, 0.3)), upright(edge, 0, edge + 18, foot + KICK, -8))
    picture.paint(header_sign(words, sign), upright(-half - 20, 4, half + 20, HEADER - 6, -14))
    picture.paint(shade_texture((0.5, 0.0)), upright(-half, HEADER - 6, half, HEADER + 40, -2))
    picture.paint(PLAIN, upright(-half, foot, half, foot + KICK, 6), tone * 0.55)
    picture.paint(shade_texture((0.45, 0.0, 0.3)), upright(-half, foot, half, foot + KICK, 5))


@dataclass(frozen=True)
class Phone:
    """What a photographer's phone does to a picture: file name, orientation, colour, sharpness, noise."""

    suffix: str
    turned: bool  # stored lying on its side with an EXIF orientation, as phones do
    warmth: float
    noise: float  # standard deviation of mid-grey, of 255
    quality: int


PHONES = (Phone(".jpg", False, 0.0, 2.5, 92), Phone(".JPG", False, 0.06, 5.0, 85), Phone(".jpg", True, -0.05, 3.5, 88))


def develop(scene: Array, phone: Phone, rng: np.random.Generator) -> Array:
    """Return the photograph (h, w, 3) uint8 of a scene painted at (2h, 2w): light, colour, blur, noise."""
    import cv2

    h, w = scene.shape[0] // 2, scene.shape[1] // 2
    image = cv2.resize(scene, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    slope = rng.uniform(-0.14, 0.14, 2)
    lamp = rng.uniform(-1, 1, 2)
    light = (
        1.0
        + slope[0] * x
        + slope[1] * y
        + rng.uniform(0.05, 0.3) * np.exp(-((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / 0.6)
    )
    light = light * (1 - 0.08 * (x**2 + y**2)) * rng.uniform(0.85, 1.1)
    image *= cv2.resize(light.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)[..., None]
    warmth = phone.warmth + rng.normal(0, 0.035)
    image *= np.array([1 - warmth, 1 + rng.normal(0, 0.01), 1 + warmth], np.float32)
    sigma = abs(rng.normal(0.3, 0.45)) + 0.15
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.2:  # a hand that moved
        kernel = np.zeros((7, 7), np.float32)
        reach = rng.uniform(0.6, 1.6) * np.array([np.cos(angle := rng.uniform(0, 3.1)), np.sin(angle)])
        cv2.line(kernel, *(tuple(np.round(3 + sign * reach).astype(int).tolist()) for sign in (-1, 1)), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    image = 255 * (np.clip(image, 0, 255) / 255) ** rng.uniform(0.88, 1.12)
    image += rng.standard_normal(image.shape, np.float32) * phone.noise * (0.5 + np.sqrt(np.clip(image, 0, 255) / 255))
    return np.clip(image, 0, 255).astype(np.uint8)


def take_photo(
    shelf: int, number: int, facings: Sequence[Facing], seed: int, width: int, height: int
) -> tuple[Array, list[tuple[Product, Box]]]:
    """Return a photograph (height, width, 3) uint8 BGR and the boxes somebody drew on it.

    A box is off by up to 8 pixels a side; a package of which more than half lies outside the photograph has none.
    """
    rng = np.random.default_rng([seed, 10, shelf, number])
    camera = Camera(width, height, rng)
    facings = [place(facing, rng) for facing in facings]
    picture = Picture(width, height, camera)
    paint_bay(picture, shelf, facings, rng)
    photo = develop(picture.pixels, PHONES[number % len(PHONES)], rng)
    habit = rng.normal(-3, 2)  # some people draw wide, some tight
    outwards, frame = np.array([-1, -1, 1, 1]), np.array([width, height, width, height])
    boxes = []
    for facing in facings:
        truth = true_box(camera, facing)
        drawn = np.round(truth + (outwards * habit + rng.normal(0, 2.5, 4)).clip(-8, 8)).clip(0, frame).astype(int)
        if area(truth.clip(0, frame)) >= 0.5 * area(truth) and area(drawn) > 0:
            boxes.append((facing.product, tuple(drawn.tolist())))
    return photo, boxes


def area(box: Array) -> float:
    return float(max(0, box[2] - box[0]) * max(0, box[3] - box[1]))


# ---------------------------------------------------------------- writing


def encode(photo: Array, phone: Phone) -> bytes:
    """Return the JPEG file of a phone; one that stores pictures lying on their side says so in EXIF (orientation 6)."""
    import cv2

    stored = np.ascontiguousarray(np.rot90(photo)) if phone.turned else photo
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, phone.quality])[1].tobytes()
    if not phone.turned:
        return jpeg
    exif = b"Exif\0\0" + struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    return jpeg[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + jpeg[2:]


@dataclass(frozen=True)
class Shot:
    """One photograph to take, and where it goes."""

    folder: Path
    shelf: int
    number: int
    facings: tuple[Facing, ...]
    seed: int
    width: int
    height: int

    @property
    def name(self) -> str:
        return f"shelf_{self.shelf:02d}_{self.number + 1}"

    @property
    def suffix(self) -> str:
        return PHONES[self.number % len(PHONES)].suffix


def shoot(shot: Shot) -> list[tuple[Product, Box]]:
    """Take a photograph, write it, return its boxes."""
    import cv2

    cv2.setNumThreads(1)  # every process has one photograph
    photo, boxes = take_photo(shot.shelf, shot.number, shot.facings, shot.seed, shot.width, shot.height)
    data = encode(photo, PHONES[shot.number % len(PHONES)])
    files.write_bytes(shot.folder / (shot.name + shot.suffix), data, sync=False)
    return boxes


def describe(
    shots: Sequence[Shot], boxes: Sequence[list[tuple[Product, Box]]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the annotations as one SKU JSON and, split by split, as COCO JSON. An object has the same id in both."""
    category_ids = {product: at for at, product in enumerate(CATALOGUE, 1)}
    categories = [
        {"id": at, "name": product.sku_id, "supercategory": product.line.brand, "classes": product.classes}
        for product, at in category_ids.items()
    ]
    coco: dict[str, dict[str, Any]] = {
        split: {"images": [], "annotations": [], "categories": categories} for split in sorted(set(SPLIT_OF))
    }
    sku: dict[str, Any] = {}
    object_id = 0
    for image_id, (shot, drawn) in enumerate(zip(shots, boxes, strict=True), 1):
        split = SPLIT_OF[shot.shelf % len(SPLIT_OF)]
        sku[shot.name] = {}
        coco[split]["images"].append(
            {"id": image_id, "file_name": shot.name + shot.suffix, "width": shot.width, "height": shot.height}
        )
        for product, (left, top, right, bottom) in drawn:
            object_id += 1
            sku[shot.name][str(object_id)] = {
                "points": {"top_left": [left, top], "bottom_right": [right, bottom]},
                "sku_id": product.sku_id, "classes": product.classes, "split_id": split,
            }  # fmt: skip
            coco[split]["annotations"].append({
                "id": object_id, "image_id": image_id, "category_id": category_ids[product],
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top), "iscrowd": 0,
            })  # fmt: skip
    return sku, coco


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    parser.add_argument(
        "--output_root", type=Path, required=True, metavar="FOLDER", help="where images/ and the JSONs go"
    )
    parser.add_argument("--shelves", type=cli.whole(3), default=16, metavar="N", help="shelves to fill")
    parser.add_argument(
        "--photos_per_shelf", type=cli.whole(1), default=3, metavar="N", help="photographs of each shelf"
    )
    parser.add_argument("--width", type=cli.whole(64, 8192), default=768, metavar="PX", help="width of a photograph")
    parser.add_argument("--height", type=cli.whole(64, 8192), default=1024, metavar="PX", help="height of a photograph")
    parser.add_argument("--workers", type=cli.whole(1), default=os.cpu_count() or 1, metavar="N", help="processes")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    folder = args.output_root / "images"
    shots = [
        Shot(folder, shelf, number, tuple(facings), args.seed, args.width, args.height)
        for shelf, facings in enumerate(arrange(args.shelves, args.seed))
        for number in range(args.photos_per_shelf)
    ]
    with ProcessPoolExecutor(min(args.workers, len(shots))) as pool:
        boxes = list(cli.progress(pool.map(shoot, shots), total=len(shots), desc="photographs", unit="photo"))
    sku, coco = describe(shots, boxes)
    known = {annotation["category_id"] for annotation in coco["train"]["annotations"]}
    if missing := len(CATALOGUE) - len(known):
        raise cli.UsageError(
            f"{missing} of {len(CATALOGUE)} classes are on no train photograph; raise --shelves or --photos_per_shelf"
        )
    files.write_text(args.output_root / "annotations_sku.json", json.dumps(sku, indent=1))
    for split, content in coco.items():
        files.write_text(args.output_root / f"{split}.json", json.dumps(content, indent=1))
    splits = ", ".join(f"{len(content['annotations']):,} {split}" for split, content in coco.items())
    print(
        f"{cli.count(len(shots), 'photograph')} of {cli.count(args.shelves, 'shelf', 'shelves')}, boxes: {splits}, in {args.output_root}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
