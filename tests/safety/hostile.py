"""Small inputs for the tests of safety, and how each row counts its cases."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common import embeddings


def check(row: str, cases: Iterable[Any], fault: Callable[[Any], str | None]) -> None:
    """Print how many cases of a row there are, and fail with those for which `fault` gives a text."""
    cases = list(cases)
    faults = [f"{case}: {text}" for case in cases if (text := fault(case))]
    print(f"{row}: {len(cases)} cases, {len(faults)} failures")
    assert not faults, "\n".join(faults)


def call(main: Callable[[list[str]], int], *words: object) -> tuple[int | str, str, str]:
    """Run a script's main() in this process: exit code, or the name of an exception that came out; stdout; stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue()


def sentence(code: int | str, err: str) -> str | None:
    """Return what is wrong with how a script ended: a traceback, or an error of no or several sentences."""
    if not isinstance(code, int):
        return f"traceback {code}"
    if "Traceback" in err:
        return f"traceback on stderr: {err[-300:]}"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if code and "error: " not in err:
        return "no error was told"
    return None


def vectors_of(
    labels: list[str], *, seed: int = 0, dim: int = 8, meta: dict[str, Any] | None = None, **texts: Any
) -> Any:
    """Return an embedding set of one row a label, which are near each other where labels are the same."""
    random = np.random.default_rng(seed)
    centres = {label: np.random.default_rng(sum(map(ord, label))).normal(size=dim) for label in labels}
    vectors = np.array([centres[label] + 0.3 * random.normal(size=dim) for label in labels], np.float32)
    ids = [f"photo{row // 2}_{row}" for row in range(len(labels))]
    columns = {
        "crop_ids": ids,
        "sample_ids": [text.split("_")[0] for text in ids],
        "paths": [f"{text}.jpg" for text in ids],
    }
    columns |= texts
    arrays = {name: np.array(values, str) for name, values in columns.items()}
    known = {"dataset_name": "shelf", "id": "0", "split": "test", **(meta or {})}
    return embeddings.EmbeddingSet(vectors, np.array(labels, str)[:, None], **arrays, meta=known)


def study(folder: Path) -> Path:
    """Write reference and query sets of two IDs and return their folder."""
    for number in ("0", "10"):
        for split, seed in (("train", 1), ("test", 2)):
            meta = {"id": number, "split": split}
            embeddings.save(
                folder / f"shelf_{number}_{split}.npz",
                vectors_of(list("aabbccdd") * 3, seed=seed + int(number), meta=meta),
            )
    return folder


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    """Write a picture of noise that its seed decides; its kind is that of the name's ending."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def shelf(folder: Path, n: int = 4) -> list[object]:
    """Write n pictures with two boxes each, and return crop.py's options for them without --output_root."""
    entries = []
    for number in range(n):
        picture(folder / "images" / f"p{number}.jpg", number)
        for place, label in enumerate(("tea", "rice")):
            entries.append((number, place, label))
    content = {
        "images": [{"id": n_, "file_name": f"p{n_}.jpg", "width": 64, "height": 48} for n_ in range(n)],
        "categories": [{"id": 0, "name": "tea"}, {"id": 1, "name": "rice"}],
        "annotations": [
            {"id": at, "image_id": number, "category_id": place, "bbox": [5 + 20 * place, 8, 18, 20]}
            for at, (number, place, _) in enumerate(entries)
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return ["--json_path", folder / "boxes.json", "--image_folder", folder / "images"]
