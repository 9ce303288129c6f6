"""torch.compile: a module made faster for batches of one shape, where that can be done and changes nothing that counts."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common.messages import shorten, warn
from engines.precision import MIN_COSINE, cosines

Rows = Callable[[Callable[[torch.Tensor], torch.Tensor]], np.ndarray]


def compiled(module: nn.Module, rows: Rows) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the module compiled, or None where it cannot be, which is told.

    rows: gives the vectors (n, dim) of some images by a module; those of the compiled one must be close to those of the plain one.
    """
    # Silence torch's warning about a missing CUDA runtime.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        made = torch.compile(module, dynamic=False)
        close = cosines(rows(made), rows(module)).min() >= MIN_COSINE
        reason = "" if close else "its results differ"
    except Exception as error:  # no compiler, no Python headers, a model it cannot trace …
        reason = shorten(error)
    if not reason:
        return made
    warn(f"going on without torch.compile: {reason}")
    return None
