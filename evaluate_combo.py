#!/usr/bin/env python3
"""Score query embeddings against reference embeddings by cosine k-NN.

Without IDs: the matrix of every reference set against every query set, and which padding to use. With IDs: the reference sets
merged, the query sets scored one by one, and fused where several are named, with every measure.

  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz
  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --reference_ids 0 10 --query_ids 10 --plot umap
  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --interactive
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, messages, table_files
from plots.methods import METHODS
from terminal.options import add_classifier_options, add_evaluation_options, add_matrix_options

if TYPE_CHECKING:
    from combinations.verdict import Findings
    from common.knn import Neighbours
    from evaluation.codes import CodedSets
    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination, Decisions, Rule


def show_matrix(evaluator: Evaluator, title: str, query_split: str, baseline: str | None, seed: int) -> Findings:
    """Print the accuracy of every reference set against every query set, models, paddings, and the verdict."""
    from combinations import comparison, models, paddings
    from combinations.search import enumerate_combinations
    from combinations.verdict import Findings, verdict
    from terminal import tables

    coded = evaluator.coded
    pairs = enumerate_combinations(list(coded.references), list(coded.queries), 1, 1, "crossed")
    pairs = [pair for pair in pairs if evaluator.valid(pair)]
    if not pairs:
        raise messages.UsageError("no query set has references of its own model; add files, or see --reference_split")
    tallies = {pairs[index]: tally for index, tally in evaluator.tallies(pairs)}
    compared = comparison.compare_all(evaluator, tallies, baseline, seed)
    answers = verdict(compared, padding=paddings.are_paddings(coded))
    rows = models.model_rows(evaluator, seed=seed)
    findings = Findings(title, compared, compared, answers, rows, query_split)
    print(tables.matrix(coded, evaluator.rule, findings, paddings.padding_rows(evaluator, seed=seed)))
    return findings


def show(evaluator: Evaluator, combination: Combination, decisions: Decisions) -> None:
    """Print every measure of one combination."""
    from evaluation import per_query
    from evaluation.evaluator import tally
    from terminal.measures import measures

    totals = tally(evaluator.coded, decisions, combination.reference_ids)
    retrieval = per_query.retrieval(evaluator, combination)
    print(measures(evaluator.coded, evaluator.rule, combination, totals, retrieval))


def show_similarity(coded: CodedSets, reference_ids: Sequence[str], output_root: Path) -> None:
    """Print the mean cosine within and between classes of the merged references and draw it class by class."""
    from plots import heatmaps
    from terminal.measures import class_similarity

    text, matrix, names = class_similarity(coded, reference_ids)
    print(text)
    ids = "+".join(reference_ids)
    path = output_root / files.name_part(f"similarity_{ids}.png")
    heatmaps.similarity_heatmap(path, matrix, names, title=f"Mean cosine between classes, references {ids}")
    print(f"wrote {path} and .svg\n")


def draw(
    coded: CodedSets,
    rule: Rule,
    combination: Combination,
    decisions: Decisions,
    methods: Sequence[str],
    *,
    top_n: int,
    output_root: Path,
    seed: int,
) -> None:
    """Draw references and queries of one combination as 2-D maps."""
    from plots import maps, projection
    from terminal.measures import map_points

    vectors, labels, role, correct = map_points(coded, rule, combination, decisions)
    ids = "+".join(combination.reference_ids), "+".join(combination.query_ids)
    for method in methods:
        messages.note(f"{method} of {len(vectors):,} vectors …")
        points = projection.project(vectors, method, 2, seed=seed)
        path = output_root / files.name_part(f"{method}_{ids[0]}_{ids[1]}.png")
        title = f"{method.upper()}, references {ids[0]}, queries {ids[1]}"
        maps.embedding_map(path, points, labels, top_n=top_n, marker_by=role, correct=correct, title=title)
        print(f"wrote {path} and .svg")


def write_predictions(evaluator: Evaluator, decided: dict[Combination, Decisions], path: Path, safe: bool) -> None:
    """Write every decision of the combinations as one table."""
    from evaluation import per_query

    table = per_query.prediction_table(evaluator, decided)
    table_files.write(path, table, spreadsheet_safe=safe, checked=True)
    print(f"wrote {path}: {messages.count(len(table), 'prediction')}")


@contextmanager
def searching(cluster: str | None) -> Iterator[Callable[..., Neighbours]]:
    """Give the function that searches: on this machine, or on the Ray cluster at an address."""
    from common import knn

    if not cluster:
        yield knn.search_excluding
        return
    from ray_cluster import connection, tasks

    with connection.connected(cluster) as ray:
        yield partial(tasks.search, ray)
        ray.report()


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add_evaluation_options(parser)
    add_classifier_options(parser)
    cli.add_seed(parser)
    cli.add_cluster(parser)
    add_matrix_options(parser, METHODS)
    return parser


def run(args: argparse.Namespace, command: str) -> None:
    from combinations import results, verdict
    from combinations.search import chosen_combinations
    from common.embedding_sets import read_sides
    from evaluation.codes import code_sets, remarks
    from evaluation.evaluator import Evaluator
    from evaluation.records import Rule
    from terminal import classifiers, prompt, tables

    sides = [("--train_npz", args.train_npz, args.reference_split), ("--test_npz", args.test_npz, args.query_split)]
    references, queries = read_sides(sides, label_level=args.label_level, **cli.reading(args))
    coded = code_sets(references, queries, args.label_level)
    rule = Rule(args.fusion, args.k, args.vote_weights, args.exclude)
    title = args.company_name or queries[0].dataset or "-"
    draw_maps = partial(draw, coded, rule, top_n=args.top_n_labels, output_root=args.output_root, seed=args.seed)
    with searching(args.cluster) as search:
        evaluator = Evaluator(coded, rule, search)
        for remark in remarks(coded, rule):
            messages.warn(remark)
        combinations = chosen_combinations(coded, rule.fusion, args.reference_ids, args.query_ids)
        print(f"{tables.sets(coded, rule, title)}\n")
        if args.interactive:
            prompt.interact(evaluator, draw_maps, METHODS, args.plot or ["pca"])
            return
        decided, findings = {}, None
        if args.reference_ids or args.query_ids:
            for combination in combinations:
                decided[combination] = evaluator.decide(combination)
                show(evaluator, combination, decided[combination])
        else:
            findings = show_matrix(evaluator, title, args.query_split, args.baseline, args.seed)
            if args.plot or args.predictions:
                decided = {combination: evaluator.decide(combination) for combination in combinations}
        options = (getattr(args, name) for name in classifiers.OPTIONS)
        print(classifiers.classified(evaluator, combinations, *options), end="")
        if args.similarity:
            show_similarity(coded, args.reference_ids or list(coded.references)[:1], args.output_root)
        if (args.plot or args.predictions) and not decided:
            raise messages.UsageError(
                "no reference and query set share an ID; name sets with --reference_ids and --query_ids"
            )
        for combination, decisions in decided.items() if args.plot else ():
            draw_maps(combination, decisions, args.plot)
        if args.predictions:
            write_predictions(evaluator, decided, args.predictions, args.spreadsheet_safe)
        if args.results:
            compared = findings or verdict.of_decisions(evaluator, decided, title, args.query_split, args.seed)
            run_of = results.describe(coded, command=command, version=cli.version(), dataset=title)
            side_by_side = tables.models(compared.models) if compared.models else ""
            how = {"replace": args.results_mode == "replace", "spreadsheet_safe": args.spreadsheet_safe}
            results.write(args.results, run_of, coded, rule, compared, models=side_by_side, **how)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return cli.main(build_parser(), partial(run, command=shlex.join([Path(__file__).name, *words])), argv)


if __name__ == "__main__":
    sys.exit(main())
