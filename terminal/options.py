"""Options that evaluate_combo.py and greedy_combo_eval.py share."""

from __future__ import annotations

import argparse
from typing import Any

from common.cli import whole


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
    sets.add_argument("--company_name", metavar="NAME", help="title of the output, and the key inside older files")
    sets.add_argument("--drop_invalid", action="store_true", help="leave out zero and non-finite vectors, counted")
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--fusion", choices=("stack", "vote", "mean", "concat"), default="stack", help="how sets are merged"
    )
    scoring.add_argument("--k", type=whole(1), default=1, help="neighbours that vote")
    scoring.add_argument(
        "--vote_weights", choices=("uniform", "similarity"), default="uniform", help="weights of their votes"
    )
    scoring.add_argument(
        "--label_level", type=whole(0), metavar="L", help="label level that is scored (default: the deepest)"
    )
    leave = scoring.add_mutually_exclusive_group()
    leave.add_argument("--exclude_self", action="store_true", help="a crop is not its own neighbour, at any ID")
    leave.add_argument(
        "--exclude_same_sample", action="store_true", help="crops of the query's own source image are no neighbours"
    )
