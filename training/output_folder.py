"""The folder that a training writes: what an earlier run left in it, and the state from which a killed run goes on."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files, run_record
from common.messages import UserError, note

if TYPE_CHECKING:
    import torch

RECORD, STATE, LOCK = "train.json", ".training", ".lock"
CURVE, SKIPPED = "training.csv", "skipped.csv"
RESULTS = ("model.json", "model.safetensors", CURVE, "training.png", "training.svg", SKIPPED)


def begin(folder: Path, record: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether an earlier run with this record has finished. With `overwrite`, results of other runs are removed first.

    Raises UserError for the results of another run or of somebody else.
    """
    path = folder / RECORD
    present = [name for name in RESULTS if (folder / name).exists()]
    if present and not path.is_file() and not overwrite:
        raise UserError(
            f"{folder} holds {present[0]}, which train.py has not made; name another --output, or add --overwrite"
        )

    def clear() -> None:
        forget_state(folder)
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)

    def finished() -> bool:
        return (folder / "model.json").is_file()

    def begun() -> bool:
        return finished() or state_file(folder).is_file()

    complete = run_record.claim(path, record, overwrite=overwrite, finished=finished, begun=begun, clear=clear)
    files.sweep(folder)
    if complete:  # a run that was killed at its very end has left it
        forget_state(folder)
    return complete


def state_file(folder: Path) -> Path:
    """Return the file that holds the state of an unfinished run."""
    return folder / STATE / "epoch.pt"


def forget_state(folder: Path) -> None:
    """Remove the state of an unfinished run."""
    shutil.rmtree(folder / STATE, ignore_errors=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and texts, whole or not at all."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)  # not into the file: on a full disk that would raise a RuntimeError
    with files.whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue() + files.SEAL.encode())
        files.seal(temporary)


def read_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return what `write_state` wrote, None where there is nothing or it cannot be read."""
    import torch

    try:
        files.check_seal(path)
        return torch.load(io.BytesIO(path.read_bytes()), map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (
        UserError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        AttributeError,
        TypeError,
        pickle.UnpicklingError,
    ):
        note(f"{path} cannot be read: training starts anew")
        return None
