"""The colours that fill what an image does not cover, by the names that the options take. RGB uint8."""

COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}
WHITE = COLORS["white"]
