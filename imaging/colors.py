"""The colours that fill what an image does not cover, by the names that the options take. RGB uint8."""

import argparse

COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}
WHITE = COLORS["white"]


def add_background(parser: argparse._ActionsContainer, default: str | None = "white") -> None:
    """Add --background, the colour that shows through; without a default it is that of the vectors to compare with."""
    text = "colour behind what is transparent in an image"
    text += "" if default else " (default: that of the vectors they are compared with, else white)"
    parser.add_argument("--background", choices=COLORS, default=default, help=text)
