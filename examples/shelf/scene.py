"""The demo's shelves in three dimensions: which package stands where, and how a bay is painted as a camera sees it.

World: millimetres, x right, y down from the top of the bay, z away from the viewer; the front of the boards is z = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from shelf.packages import (
    BLACK,
    CATALOGUE,
    LINES,
    WHITE,
    Array,
    Product,
    Sheet,
    bgr,
    front,
    mix,
    opaque,
    side,
    top_colour,
)

TIERS, TIER_HEIGHT, BOARD = 3, 290.0, 30.0
WIDTH, DEPTH, HEADER, KICK = 790.0, 330.0, 110.0, 90.0  # header above the tiers, kick plate below them
FOOT = HEADER + TIERS * TIER_HEIGHT
SECOND_FACING = 0.5  # how often a product has two packages side by side
SHARPER = 2  # a scene is painted at twice the photograph's size

SPLITS = ("test", "train", "val", "test", "train")  # shelf by shelf, over and over


@dataclass(frozen=True)
class Facing:
    """A package at the front of a board; x is its middle, z how far it stands back, turn in radians."""

    product: Product
    tier: int
    x: float
    z: float
    turn: float

    @property
    def foot(self) -> float:
        return HEADER + (self.tier + 1) * TIER_HEIGHT - BOARD


def split_of(shelf: int) -> str:
    return SPLITS[shelf % len(SPLITS)]


def arrange(shelves: int, seed: int) -> list[list[Facing]]:
    """Return the facings of each shelf. Each split deals through the whole catalogue, line by line, before it repeats."""
    decks = {split: deal(np.random.default_rng([seed, at])) for at, split in enumerate(("train", "val", "test"))}
    return [fill(decks[split_of(shelf)], np.random.default_rng([seed, 9, shelf])) for shelf in range(shelves)]


def deal(rng: np.random.Generator) -> Iterator[Product]:
    while True:
        for line in rng.permutation(len(LINES)):
            flavours = [product for product in CATALOGUE if product.line is LINES[line]]
            yield from (flavours[at] for at in rng.permutation(len(flavours)))


def fill(deck: Iterator[Product], rng: np.random.Generator) -> list[Facing]:
    """Fill a bay: one or two packages of a product side by side, most with a small gap, some touching or overlapping."""
    facings: list[Facing] = []
    product, seconds = next(deck), rng.random() < SECOND_FACING
    for tier in range(TIERS):
        x = -WIDTH / 2 + rng.uniform(6, 20)
        while x + (width := product.line.size[0]) < WIDTH / 2 - 4:
            facings.append(Facing(product, tier, x + width / 2, rng.uniform(4, 34), rng.normal(0, 0.04)))
            x += width + max(-0.10 * width, rng.normal(8, 8))
            x += rng.uniform(30, 80) if rng.random() < 0.05 else 0  # sold out
            product, seconds = (product, False) if seconds else (next(deck), rng.random() < SECOND_FACING)
    return facings


def jitter(facing: Facing, rng: np.random.Generator) -> Facing:
    """Return the facing as it stands on the next photograph: customers touch things."""
    x, z, turn = rng.normal(0, (1.5, 3, 0.025))
    return replace(facing, x=facing.x + x, z=max(0.0, facing.z + z), turn=facing.turn + turn)


class Camera:
    """A pinhole camera somewhere before the bay."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        distance = rng.uniform(1150, 1700)
        target = np.array([rng.normal(0, 18), (FOOT + KICK) / 2 + rng.normal(0, 22), 0])
        aside = np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.16, 0.08), -1])
        self.eye = target + aside * distance
        forward = -aside / np.linalg.norm(aside)
        roll = rng.normal(0, 0.013)
        right = np.cross([np.sin(roll), np.cos(roll), 0], forward)
        right /= np.linalg.norm(right)
        self.axes = np.stack([right, np.cross(forward, right), forward])
        fit = min(width / (WIDTH + 90), height / (FOOT + KICK + 20))
        self.focal = fit * distance * rng.uniform(0.97, 1.12)
        self.size = np.array([width, height])

    def project(self, points: Any) -> Array:
        """Return pixels (n, 2) of world points (n, 3)."""
        seen = (np.asarray(points, float) - self.eye) @ self.axes.T
        return seen[:, :2] / seen[:, 2:] * self.focal + self.size / 2


def upright(x0: float, x1: float, y0: float, y1: float, z: float) -> Array:
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])


def level(x0: float, x1: float, y: float, near: float, far: float) -> Array:
    """Return a horizontal quad that is seen from above; with near and far swapped, from below."""
    return np.array([(x0, y, far), (x1, y, far), (x1, y, near), (x0, y, near)])


def faces(facing: Facing) -> dict[str, Array]:
    """Return the world quads (4, 3) of a package, the front last; only boxes have others."""
    width, high, deep = facing.product.line.size
    shape = facing.product.line.shape
    turn = facing.turn if shape in ("box", "bag") else 0.0
    ends = np.array([(-width / 2, 0), (width / 2, 0), (width / 2, deep), (-width / 2, deep)])  # from the front left
    ends = ends @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] + (facing.x, facing.z)
    upper = np.insert(ends, 1, facing.foot - high, axis=1)
    lower = np.insert(ends, 1, facing.foot, axis=1)
    quads = {"top": upper[[3, 2, 1, 0]]} if shape == "box" else {}
    for name, (a, b) in {"left": (3, 0), "right": (1, 2), "front": (0, 1)}.items():
        if shape == "box" or name == "front":
            quads[name] = np.stack([upper[a], upper[b], lower[b], lower[a]])
    return quads


def true_box(camera: Camera, facing: Facing) -> Array:
    """Return left, top, right, bottom of a package in pixels of the photograph, also where it leaves the photograph."""
    corners = camera.project(np.concatenate(list(faces(facing).values())))
    return np.concatenate([corners.min(0), corners.max(0)])


class Picture:
    """A scene being painted back to front."""

    def __init__(self, camera: Camera, background: Array) -> None:
        self.camera = camera
        width, height = camera.size * SHARPER
        self.pixels = np.full((height, width, 3), background, np.uint8)

    def paint(self, texture: Array, corners: Array, light: float | Array = 1.0) -> None:
        """Paint a premultiplied BGRA texture onto a world quad (clockwise from its top left) unless it faces away."""
        import cv2

        quad = self.camera.project(corners) * SHARPER
        following = np.roll(quad, -1, 0)
        low = np.floor(quad.min(0)).clip(0, self.camera.size * SHARPER).astype(int)
        high = np.ceil(quad.max(0)).clip(0, self.camera.size * SHARPER).astype(int)
        if np.linalg.det(np.stack([quad, following], 1)).sum() <= 1 or (high <= low).any():
            return
        if np.any(light != np.float64(1)):
            texture = (texture * np.append(light * np.ones(3), 1)).astype(np.uint8)
        h, w = texture.shape[:2]
        flat = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(flat, (quad - low - 0.5).astype(np.float32))
        patch = cv2.warpPerspective(texture, matrix, tuple((high - low).tolist()))
        under = self.pixels[low[1] : high[1], low[0] : high[0]]
        keep = cv2.cvtColor(255 - patch[..., 3], cv2.COLOR_GRAY2BGR)
        under[:] = cv2.add(cv2.multiply(under, keep, scale=1 / 255), cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR))


def shadow(down: Sequence[float], across: Sequence[float] = (1.0,)) -> Array:
    """Return a black texture of opacity `down` (top to bottom) times `across` (left to right), interpolated."""
    y = np.interp(np.linspace(0, len(down) - 1, 64), range(len(down)), down)
    x = np.interp(np.linspace(0, len(across) - 1, 64), range(len(across)), across)
    texture = np.zeros((64, 64, 4), np.uint8)
    texture[..., 3] = 255 * y[:, None] * x[None]
    return texture


PLAIN = np.full((8, 8, 4), 255, np.uint8)
CONTACT = shadow((0.0, 0.55, 0.65), (0, 0.8, 1, 1, 0.8, 0))
BEHIND = shadow((0.35, 0.5, 0.55), (0, 1, 1, 0))
UNDER_BOARD = shadow((0.62, 0.30, 0.10, 0.0))
INWARDS = shadow((0.75, 0.5, 0.1))
CABINETS = (  # board, back wall, sign, words on it
    ("#e8e8e4", "#b9bab6", "#2b5d4a", "PANTRY"), ("#d9c9a8", "#a8987c", "#3b2a20", "Corner Market"),
    ("#d3d6d8", "#a9adb0", "#b3392f", "FRESH & DRY"), ("#f1ede2", "#b9b3a4", "#1f4f86", "BREAKFAST & DRINKS"),
)  # fmt: skip


@cache
def price_tag(name: str, price: str, offer: bool) -> Array:
    paper = bgr("#ffd83a" if offer else "#fbfbf7")
    sheet = Sheet.of(54, 24, paper, paper)
    sheet.text(price, 0.66, 0.4, 0.56, 0.5, bgr("#c3231c") if offer else BLACK)
    sheet.text(name, 0.61, 0.85, 0.63, 0.15, BLACK)
    for step in range(6):
        sheet.rectangle(0.07 + step * 0.043, 0.17, 0.09 + step * 0.043 + step * 7 % 3 * 0.006, 0.83, bgr("#555555"))
    return opaque(sheet.pixels)


@cache
def sign(words: str, paint: str) -> Array:
    sheet = Sheet.of(WIDTH + 40, HEADER - 10, mix(bgr(paint), WHITE, 0.08), bgr(paint))
    sheet.text(words, 0.5, 0.5, 0.6, 0.42, bgr("#f6f1e2"), italic=words.istitle())
    return opaque(sheet.pixels)


@cache
def tiles() -> Array:
    sheet = Sheet.of(400, 400, bgr("#8d8a84"), bgr("#b5b1a8"))
    for at in np.arange(0, 1, 1 / 16):
        sheet.rectangle(at, 0, at + 0.002, 1, bgr("#858179"))
        sheet.rectangle(0, at, 1, at + 0.002, bgr("#858179"))
    return opaque(sheet.pixels)


@cache
def far_side(store: int) -> Array:
    """Return the far side of the store, out of focus: shelves full of colours under a bright wall."""
    import cv2

    small = np.random.default_rng(store).uniform(50, 170, (14, 48, 3)) * (0.85, 0.95, 1.0)
    small[:4] = (181, 184, 186)
    small[5::3] *= 0.35  # the shade between its boards
    return opaque(cv2.GaussianBlur(cv2.resize(small, (480, 280)), (0, 0), 5).astype(np.uint8))


def glare(texture: Array, rng: np.random.Generator) -> Array:
    """Return the texture with a lamp mirrored in its wrapping."""
    import cv2

    y, x = np.mgrid[0:1:16j, 0:1:16j]
    streak = np.exp(-(((x * 0.7 + y - rng.uniform(0.2, 1.4)) / rng.uniform(0.05, 0.2)) ** 2)) * rng.uniform(0, 0.25)
    alpha = texture[..., 3:]
    lit = texture[..., :3] + cv2.resize(streak, texture.shape[1::-1])[..., None] * alpha
    return np.concatenate([np.minimum(lit, alpha), alpha], 2).astype(np.uint8)


def paint_bay(picture: Picture, shelf: int, facings: Sequence[Facing], rng: np.random.Generator) -> None:
    """Paint the store, the cabinet and the packages."""
    board, wall, paint, words = CABINETS[shelf % len(CABINETS)]
    tone, half = bgr(board) / 255, WIDTH / 2
    left, right = (-half, half), (-half - 18, half + 18)  # of the inside, of the outside
    picture.paint(far_side(shelf % 3), upright(-3600, 3600, -1500, FOOT + KICK, 2600))
    picture.paint(tiles(), level(-2400, 2400, FOOT + KICK, -600, 2600))
    picture.paint(PLAIN, upright(*left, 0, FOOT, DEPTH), bgr(wall) / 255 * 0.72)
    for x, near, far in ((-half, 0.0, DEPTH), (half, DEPTH, 0.0)):  # the cabinet's cheeks from inside
        cheek = np.array([(x, 0, near), (x, 0, far), (x, FOOT, far), (x, FOOT, near)])
        picture.paint(PLAIN, cheek, tone * 0.62)
    for tier in range(TIERS):
        paint_tier(picture, shelf, tier, [facing for facing in facings if facing.tier == tier], tone, rng)
    for post in ((right[0], left[0]), (left[1], right[1])):
        picture.paint(PLAIN, upright(*post, 0, FOOT + KICK, -8), tone * 0.93)
        picture.paint(shadow((0.1, 0.1), (0.3, 0, 0.3)), upright(*post, 0, FOOT + KICK, -8))
    picture.paint(sign(words, paint), upright(*right, 4, HEADER - 6, -14))
    picture.paint(PLAIN, upright(*left, FOOT, FOOT + KICK, 6), tone * 0.55)
    picture.paint(shadow((0.45, 0.0, 0.3)), upright(*left, FOOT, FOOT + KICK, 5))


def paint_tier(
    picture: Picture, shelf: int, tier: int, facings: Sequence[Facing], tone: Array, rng: np.random.Generator
) -> None:
    top, ground, half = HEADER + tier * TIER_HEIGHT, HEADER + (tier + 1) * TIER_HEIGHT - BOARD, WIDTH / 2
    picture.paint(UNDER_BOARD, upright(-half, half, top, ground, DEPTH - 1))
    picture.paint(PLAIN, level(-half, half, ground, 0, DEPTH), tone * 0.8)
    picture.paint(INWARDS, level(-half, half, ground, 0, DEPTH))
    picture.paint(PLAIN, level(-half, half, top, DEPTH, 0), tone * 0.4)  # the board above, from below
    facings = sorted(facings, key=lambda facing: -facing.z)
    for row in (2, 1):  # the packages behind
        for facing in facings:
            width, high, deep = facing.product.line.size
            x, z = facing.x - width / 2, facing.z + row * (deep + 6)
            picture.paint(front(facing.product), upright(x, x + width, ground - high, ground, z), 0.8 - 0.2 * row)
    for facing in facings:
        paint_package(picture, facing, rng)
    edge = (-half - 18, half + 18, ground, ground + BOARD, -8)
    picture.paint(UNDER_BOARD, upright(-half, half, top, top + 90, -1))
    picture.paint(PLAIN, upright(*edge), tone)
    picture.paint(shadow((0.0, 0.0, 0.08, 0.35)), upright(*edge))
    for at, facing in enumerate(sorted(facings, key=lambda facing: facing.x)):
        price = f"{1 + (len(facing.product.sku_id) * 37 + at) % 5}.{(at * 3 + shelf) % 10}9"
        tag = price_tag(facing.product.line.brand, price, (at + shelf + tier) % 6 == 0)
        picture.paint(tag, upright(facing.x - 27, facing.x + 27, ground + 3, ground + 27, -10))


def paint_package(picture: Picture, facing: Facing, rng: np.random.Generator) -> None:
    product, foot = facing.product, facing.foot
    width, high, _ = product.line.size
    x0, x1 = facing.x - width / 2, facing.x + width / 2
    picture.paint(BEHIND, upright(x0 - 9, x1 + 9, foot - high * 0.97, foot, facing.z + 12))
    picture.paint(CONTACT, level(x0 - 8, x1 + 8, foot, facing.z - 16, facing.z + 10))
    mirrors = rng.random() < 0.4
    for name, quad in faces(facing).items():
        if name == "front":
            picture.paint(glare(front(product), rng) if mirrors else front(product), quad)
        elif name == "top":
            picture.paint(PLAIN, quad, top_colour(product) / 255)
        else:
            picture.paint(side(product), quad, 0.75)
