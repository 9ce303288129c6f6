"""Options of the evaluation scripts: those that both share, and those of the search for combinations."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifiers.kinds import AUTO, KINDS
from common import cli
from common.cli import number, whole
from common.messages import UsageError


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add what evaluate_combo.py and greedy_combo_eval.py share: which sets, how neighbours vote, what is left out."""
    sets = parser.add_argument_group("embedding sets")
    spec: dict[str, Any] = {"nargs": "+", "required": True, "metavar": "[ID=]NPZ"}
    sets.add_argument(
        "--train_npz", **spec, help="references: files, folders or globs; those of another split are left out"
    )
    sets.add_argument(
        "--test_npz", **spec, help="queries: files, folders or globs; those of another split are left out"
    )
    sets.add_argument("--reference_split", default="train", metavar="SPLIT", help="split that references keep")
    sets.add_argument("--query_split", default="test", metavar="SPLIT", help="split that queries keep")
    sets.add_argument("--key", help="name of the array or of the pickled dict inside a foreign .npz")
    cli.add_arrays(sets)
    sets.add_argument("--company_name", metavar="NAME", help="title of the output, and the key inside older files")
    sets.add_argument("--drop_invalid", action="store_true", help="leave out zero and non-finite vectors, counted")
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--fusion",
        choices=("vote", "stack", "mean", "concat"),
        default="vote",
        help="how query sets are merged: by a vote of a crop's views; stack is the average over views; mean, concat of vectors",
    )
    scoring.add_argument("--k", type=whole(1), default=1, help="neighbours that vote")
    scoring.add_argument(
        "--vote_weights", choices=("uniform", "similarity"), default="uniform", help="weights of their votes"
    )
    scoring.add_argument(
        "--label_level", type=whole(0), metavar="L", help="label level that is scored (default: the deepest)"
    )
    text = (
        "what intervals, p and resampling count as one (default: the photo): the first group of an expression in the "
    )
    text += "sample id, or a CSV of sample_id,group"
    scoring.add_argument("--group_by", metavar="REGEX|FILE.csv", help=text)
    text = "also print the interval for new references, from halves of the reference photos (40 searches a combination)"
    scoring.add_argument("--references_vary", action="store_true", help=text)
    leave = scoring.add_mutually_exclusive_group()
    left_out: dict[str, Any] = {"action": "store_const", "dest": "exclude", "default": "none"}
    leave.add_argument("--exclude_self", **left_out, const="self", help="a crop is not its own neighbour, at any ID")
    leave.add_argument(
        "--exclude_same_sample",
        **left_out,
        const="sample",
        help="crops of the query's own photo are no neighbours",
    )


def add_classifiers(group: argparse._ArgumentGroup) -> None:
    """Add which classifiers decide beside the nearest neighbours."""
    kinds = (*KINDS, AUTO)
    text = f"classifiers that also decide, each ranked beside the nearest neighbours: {', '.join(kinds)}; their settings, and the "
    text += "kind for auto, are chosen on --val_npz, or by cross-validation over reference photos"
    group.add_argument("--classifier", nargs="+", choices=kinds, default=[], metavar="KIND", help=text)


def add_rejection_options(parser: argparse.ArgumentParser) -> None:
    """Add which classifiers decide, and when a query is none of the references' products."""
    group = parser.add_argument_group("classifier")
    add_classifiers(group)
    text = "answer UNKNOWN such that at most this share of unknown products is accepted, for example 0.05"
    group.add_argument("--reject", type=number(0.0001, 0.9999), metavar="A", help=text)
    group.add_argument("--val_npz", nargs="+", metavar="[ID=]NPZ", help="validation queries, to choose on")
    group.add_argument(
        "--unknown_npz", nargs="+", metavar="NPZ", help="crops of products that no reference shows, to report on"
    )
    text = "with --reject and one pair of sets: write the threshold, which classify.py and search.py query read"
    group.add_argument("--threshold", type=cli.Output(".json"), metavar="FILE.json", help=text)


def check_rejection(
    classifier: Sequence[str],
    reject: float | None,
    val_npz: Sequence[str] | None,
    unknown_npz: Sequence[str] | None,
    threshold: Path | None,
) -> None:
    """Raise UsageError for options of the group that would do nothing."""
    if val_npz and not (classifier or reject):
        raise UsageError("--val_npz goes with --classifier or --reject, which choose on it")
    if (unknown_npz or threshold) and not reject:
        raise UsageError(
            "--unknown_npz and --threshold go with --reject; classify.py and search.py query read a threshold"
        )


def add_reference_options(parser: argparse.ArgumentParser) -> None:
    """Add how classify.py decides over references, and what it answers UNKNOWN."""
    text = "how references decide: auto is chosen by cross-validation over their photos (default: --k votes)"
    parser.add_argument("--classifier", choices=(*KINDS, AUTO), help=text)
    text = "answer UNKNOWN such that at most this share of unknown products is accepted, for example 0.05"
    parser.add_argument("--reject", type=number(0.0001, 0.9999), metavar="A", help=text)
    text = "file of the threshold: written with --reject, else read"
    parser.add_argument("--threshold", type=cli.Output(".json"), metavar="FILE.json", help=text)
    text = "labelled validation crops: confidences of neighbours' votes are calibrated on them (else they are shares of votes)"
    parser.add_argument("--val_npz", nargs="+", metavar="NPZ", help=text)
    text = "with --reject: crops of products that no reference shows, to set the threshold on"
    parser.add_argument("--unknown_npz", nargs="+", metavar="NPZ", help=text)


def size_range(text: str) -> tuple[int, int]:
    """Return (low, high) of `2` or `1-3`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a size such as 2 nor a range such as 1-3")
    return low, high


def add_matrix_options(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """Add what evaluate_combo.py scores, draws by one of the `methods`, and writes."""
    add = parser.add_argument
    add("--reference_ids", nargs="+", metavar="ID", help="reference sets to merge (default: the whole matrix)")
    add("--query_ids", nargs="+", metavar="ID", help="query sets to score, and to fuse (default: all, one by one)")
    add("--interactive", action="store_true", help="a prompt: IDs, ref, query, list, remove, plot, help")
    add_check(parser)
    add("--similarity", action="store_true", help="mean cosine within and between classes, with a heat map")
    add("--plot", nargs="+", choices=methods, default=[], help="2-D maps to draw")
    add("--top_n_labels", type=whole(1), default=10, metavar="N", help="labels drawn; the rest is OTHER")
    add("--output_root", type=Path, default=Path("evaluation"), help="folder of the pictures")
    text = "write every decision to this .csv or .parquet"
    add("--predictions", type=cli.Output(".csv", ".parquet"), metavar="FILE", help=text)
    text = "add the run's verdict and blocks to this file, its rows to the .csv beside it"
    add("--results", type=cli.Output(writes=("", ".csv")), metavar="FILE", help=text)
    add_results_mode(parser)
    add("--baseline", metavar="R/Q", help="what single pairs are asked to beat (default: the pair of least padding)")


def add_check(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add --learning_curve and --check."""
    text = "accuracy with few reference photos per class, many draws: of the pair of least padding, or of the IDs that are named"
    group.add_argument("--learning_curve", action="store_true", help=text)
    text = "is the data sound? near twins of references and queries, likely label errors, classes that cannot be told apart"
    group.add_argument("--check", action="store_true", help=text)


def add_results_mode(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add how a run enters --results, and in which form it is printed, and how cells of tables are written."""
    text = "json: stdout holds one object with the verdict and every combination, the text goes to stderr"
    group.add_argument("--format", choices=("text", "json"), default="text", help=text)
    group.add_argument(
        "--results_mode",
        choices=("append", "replace"),
        default="append",
        help="append to --results, or replace what earlier runs wrote there",
    )
    cli.add_spreadsheet_safe(group, "every CSV")


def check_search(fusion: str, pairing: str) -> None:
    """Raise UsageError for a pairing that the fusion cannot score."""
    if fusion == "concat" and pairing == "crossed":
        raise UsageError("--fusion concat compares the same IDs on both sides only; add --pairing matched")


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add what greedy_combo_eval.py searches, compares with, and writes."""
    group = parser.add_argument_group("combinations")
    group.add_argument(
        "--combination_size",
        type=size_range,
        metavar="N|A-B",
        help="sets a side, beside the single pairs, which are always scored (default: 2)",
    )
    group.add_argument(
        "--pairing", choices=("crossed", "matched"), default="crossed", help="matched: the same IDs on both sides"
    )
    group.add_argument(
        "--search", choices=("exhaustive", "greedy"), default="exhaustive", help="every combination, or step by step"
    )
    group.add_argument("--min_gain", type=number(0, 1), default=0.0, help="accuracy a greedy step must gain")
    group.add_argument("--max_size", type=whole(1), default=3, help="sets a side that the greedy search may reach")
    group.add_argument("--max_combinations", type=whole(1), default=5000, help="more than that is asked back")
    text = "one answer over files of several data sets (meta.dataset_name): random effects, ranks; printed, not written"
    group.add_argument("--across_datasets", action="store_true", help=text)
    group.add_argument("--baseline", metavar="R/Q", help="what differences are from (default: the best single pair)")
    group.add_argument(
        "--val_npz", nargs="+", metavar="[ID=]NPZ", help="choose on these queries, report on --test_npz once"
    )
    group.add_argument("--val_split", default="val", metavar="SPLIT", help="split that --val_npz keeps")
    add_classifiers(group)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--results",
        type=cli.Output(writes=("", ".csv")),
        default=Path("results.txt"),
        help="the run's verdict and blocks are added to it, its rows to the .csv beside it",
    )
    add_results_mode(output)
    add_check(output)
    output.add_argument("--blocks", action="store_true", help="also print every combination's block")
    output.add_argument("--top", type=whole(1), default=10, help="rows of the ranking that is printed")
    text = "which crops flip: FILE as .parquet and .csv"
    output.add_argument("--flips", type=cli.Output(writes=(".parquet", ".csv")), metavar="FILE", help=text)
    output.add_argument(
        "--report", type=cli.Output(".html", ".htm"), metavar="FILE.html", help="one self-contained page"
    )
    output.add_argument(
        "--data_root", metavar="DIR", help="where the report finds the crops, if they have moved; may use {id}"
    )
    output.add_argument(
        "--if_independent", action="store_true", help="also print McNemar's p, as if crops were independent"
    )
