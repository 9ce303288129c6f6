"""Options of search.py: which sets are read, how they are searched, what is asked."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from common import cli
from imaging.colors import add_background

RERANKINGS = ("none", "query_expansion", "k_reciprocal", "geometric")  # of retrieval/retrieve.py


def add_set_options(parser: ArgumentParser, *, required: bool = False) -> None:
    """Add --npz and how its files are read."""
    add = parser.add_argument
    add("--npz", nargs="+", required=required, metavar="[ID=]NPZ", help="embedding sets: files, folders or globs")
    add("--key", help="name of the array or of the pickled dict inside a foreign .npz")
    cli.add_arrays(parser)
    add("--company_name", metavar="NAME", help="the key inside older files")
    add("--drop_invalid", action="store_true", help="leave out zero and non-finite vectors, counted")


def _add_search_options(parser: ArgumentParser) -> None:
    """Add what asking for single images and measuring many share."""
    add_set_options(parser)
    add = parser.add_argument
    number = cli.whole(2, 10_000)
    add("--candidates", type=number, metavar="N", help="first results that are re-ranked (default: by method)")
    params = "nprobe (IVF) or ef (HNSW) (default: by size)"
    add("--search_params", nargs="+", default=[], metavar="NAME=N", help=params)
    add("--data_root", metavar="FOLDER", help="where the pictures of --npz are now (default: where they were)")


def add_query_options(parser: ArgumentParser) -> None:
    """Add the options of search.py query."""
    add = parser.add_argument
    add("--query", "-q", nargs="+", required=True, metavar="IMAGE", help="query images, or folders of them")
    add("-k", "--k", type=cli.whole(1, 10_000), default=10, help="results for each query")
    add("--label", nargs="+", metavar="LABEL", help="only rows of these labels, or below them")
    add("--split", nargs="+", metavar="SPLIT", help="only rows of these splits")
    add("--dataset", nargs="+", metavar="NAME", help="only rows of these datasets")
    add("--rerank", choices=RERANKINGS, default="none", help="put the first results into a better order")
    _add_search_options(parser)
    add("--model", metavar="SPEC", help="where the model is now (default: as recorded with the vectors)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    cli.add_engine(parser, "the vectors that are searched")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add_background(parser, None)
    add("--format", choices=("tsv", "json"), default="tsv", help="form of the results on stdout")
    cli.add_spreadsheet_safe(parser, "the TSV")
    add("--plot", type=cli.PICTURE, metavar="FILE.png", help="draw queries and results, right and wrong marked")
    text = "answer UNKNOWN first where this threshold of evaluate_combo.py or classify.py --reject says so; with --npz"
    add("--threshold", type=Path, metavar="FILE.json", help=text)
    add("--true_label", nargs="+", metavar="LABEL", help="labels of the queries (default: known by their folder)")


def add_evaluate_options(parser: ArgumentParser) -> None:
    """Add the options of search.py evaluate."""
    add = parser.add_argument
    add("--query_npz", nargs="+", required=True, metavar="[ID=]NPZ", help="labelled queries; may be the rows searched")
    add("--rerank", nargs="+", choices=RERANKINGS, default=[], help="re-rankings whose gain is measured")
    add("--exclude_same_sample", action="store_true", help="leave out all crops of the query's photo")
    add("--format", choices=("text", "json"), default="text", help="form of the results on stdout")
    _add_search_options(parser)
