#!/usr/bin/env python3
"""Run any script of the suite by its name, or use its steps from Python; docs/api.md shows how.

  padding-study crop --json_path annotations.json --image_folder images/ --output_root crops/pad_{padding}
  padding-study evaluate_combo --train_npz embeddings/*.npz --test_npz embeddings/*.npz
  python padding_study.py crop --help      (the same, in a clone)

Installed, this file and the whole suite stand in one folder, which comes first on sys.path when this module is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
if sys.path[:1] != [str(HERE)]:
    sys.path.insert(0, str(HERE))

if TYPE_CHECKING:
    import pandas as pd

    from common.embeddings import EmbeddingSet

SCRIPTS = (
    *("crop", "extract_embedding", "evaluate_combo", "greedy_combo_eval", "npz_to_parquet"),
    *("npz_to_tensorboard", "train", "classify", "search", "view"),
)


def crop(**options: Any) -> pd.DataFrame:
    """Cut crops as crop.py does, and return its crops.csv: a row a crop, of all paddings, with the folder in `crops_folder`.

    `options`: those of crop.py by name, such as json_path="a.json", padding_percent=[0, 10]. Raises UserError as crop.py does.
    """
    import pandas as pd

    from boxes import padding

    args, _ = _run("crop", options)
    frames = []
    for root in padding.choose(args.output_root, args.padding_percent, args.w_pad, args.h_pad):
        frame = pd.read_csv(root / "crops.csv", dtype=str, keep_default_na=False)
        frames.append(frame.assign(crops_folder=str(root)))
    return pd.concat(frames, ignore_index=True)


def embed(**options: Any) -> list[EmbeddingSet]:
    """Embed crops as extract_embedding.py does, and return the sets of the files that it wrote or found complete.

    `options`: those of extract_embedding.py by name, such as data_root=["crops/pad_0"]. Raises UserError as the script does.
    """
    from common.embedding_sets import read_sets

    _, out = _run("extract_embedding", options)
    return read_sets(out.splitlines())


def embedding_set(frame: pd.DataFrame, vectors: Any, **meta: Any) -> EmbeddingSet:
    """Return vectors (n, dim) and what a frame of n rows tells of them as a set.

    Columns that are read, all but one optional: `label`, or one a level, `class_0`, `class_1` …; `crop_id`, the same for the same
    crop in every set; `sample_id`, the photo, by which intervals go; `path`. `meta`: `id`, `split`, `dataset_name` and others of
    docs/formats.md. Raises UserError where lengths differ or a vector is zero or not finite.
    """
    import numpy as np

    from common.embeddings import EmbeddingSet
    from common.messages import UserError

    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or len(matrix) != len(frame):
        raise UserError(
            f"vectors of shape {matrix.shape} for {len(frame)} rows; give one row of numbers a row of the frame"
        )
    if not (np.isfinite(matrix).all() and matrix.any(axis=1).all()):
        raise UserError("some vectors are zero or not finite; leave their rows out")
    levels = [name for name in frame if str(name).startswith("class_")] or [
        name for name in ("label",) if name in frame
    ]
    texts = {
        f"{name}s": frame[name].astype(str).to_numpy(str) if name in frame else np.full(len(frame), "")
        for name in ("crop_id", "sample_id", "path")
    }
    labels = frame[levels].fillna("").astype(str).to_numpy(str)
    return EmbeddingSet(matrix, labels, **texts, meta={"id": "0", "split": "", "dataset_name": "", **meta})


def evaluate(
    references: Sequence[EmbeddingSet],
    queries: Sequence[EmbeddingSet],
    *,
    combination_size: tuple[int, int] = (1, 1),
    fusion: str = "vote",
    k: int = 1,
    vote_weights: str = "uniform",
    classifier: Sequence[str] = (),
    baseline: str | None = None,
    label_level: int | None = None,
    max_combinations: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score every pair of a reference set and a query set, and combinations of `combination_size` sets a side.

    Returns a row a combination, the best first, with the columns of results.csv; `.attrs["verdict"]` is the verdict in words.
    The options are those of greedy_combo_eval.py. Raises UserError where sets do not go together.
    """
    import pandas as pd

    from combinations import comparison, search
    from combinations.paddings import starting_pair
    from conclusions import results, verdict
    from evaluation.codes import code_sets
    from evaluation.evaluator import Evaluator
    from evaluation.learning import choose_recipes
    from evaluation.records import Rule
    from terminal import sides

    coded = code_sets(references, queries, label_level)
    rule = Rule(fusion, k, vote_weights)
    sides.warn_of([coded], rule)
    evaluator = Evaluator(coded, rule)
    start = starting_pair(evaluator, baseline)
    learnt = choose_recipes(classifier, evaluator, start, on_queries=False)
    ids = list(coded.references), list(coded.queries)
    asked = [
        combination
        for combination in search.asked_combinations(*ids, *combination_size, "crossed", max_combinations, learnt[0])
        if evaluator.valid(combination)
    ]
    tallies = dict(evaluator.tallies(asked))
    scored = {combination: tallies[index] for index, combination in enumerate(asked)}
    ranked = comparison.compare_all(evaluator, scored, baseline, seed)
    findings = verdict.of_search(
        evaluator, ranked, start, learnt, queries[0].dataset or "-", (queries[0].split, None), seed
    )
    table = pd.DataFrame(results.rows(rule, findings))
    table.attrs["verdict"] = str(findings.verdict)
    return table


def _run(script: str, options: dict[str, Any]) -> tuple[argparse.Namespace, str]:
    """Run a script with options by name; returns them as it read them, and what it printed. Raises UserError as the script."""
    from common import cli
    from common.messages import UsageError, UserError, os_error

    module = importlib.import_module(script)
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if value is not None and value is not False:
            words += [f"--{name}", *(() if value is True else map(str, values))]
    parser, told = module.build_parser(), io.StringIO()
    cli.check_names(parser, words)
    try:
        with contextlib.redirect_stderr(told):
            args = parser.parse_args(words)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            module.run(args)
    except SystemExit:
        raise UsageError(told.getvalue().strip().removeprefix(f"{parser.prog}: error: ")) from None
    except OSError as error:
        raise UserError(os_error(error)) from error
    return args, out.getvalue()


def build_parser() -> argparse.ArgumentParser:
    from common import cli

    parser = cli.make_parser(__doc__, "padding-study" if Path(__file__).stem == "__init__" else __file__)
    parser.add_argument("script", choices=SCRIPTS, help="the script to run")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options; SCRIPT --help lists them")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if completing := "_ARGCOMPLETE" in os.environ:  # the shell asks what may stand next on the line typed so far
        words = os.environ.get("COMP_LINE", "").split()[1:]
    script = words[0].removesuffix(".py") if words else ""
    if script in SCRIPTS and (len(words) > 1 or not completing):
        if completing:
            os.environ["_ARGCOMPLETE"] = "2"  # the script's options begin one word later
        sys.argv = [str(HERE / f"{script}.py"), *words[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
    from common import cli

    return cli.main(build_parser(), lambda _: None, words)


if __name__ == "__main__":
    sys.exit(main())
