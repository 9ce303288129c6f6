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

from common import cli, messages, table_files
from plots.methods import METHODS
from terminal.options import add_evaluation_options, add_matrix_options, add_rejection_options, check_rejection

if TYPE_CHECKING:
    from common.knn import Neighbours
    from conclusions.verdict import Findings
    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination, Decisions


def keep(
    evaluator: Evaluator,
    decided: dict[Combination, Decisions],
    draw_maps: Callable[..., None],
    methods: Sequence[str] | None,
    predictions: Path | None,
    safe: bool,
) -> None:
    """Draw the maps of the combinations by `methods`, and write every decision as one table, `safe` for spreadsheets."""
    from evaluation import per_query

    if not decided:
        raise messages.UsageError("no reference and query set share an ID; add --reference_ids and --query_ids")
    if methods:
        for combination, decisions in decided.items():
            draw_maps(combination, decisions, methods=methods)
    if predictions:
        table = per_query.prediction_table(evaluator, decided)
        table_files.write(predictions, table, spreadsheet_safe=safe, checked=True)
        print(f"wrote {predictions}: {messages.count(len(table), 'prediction')}")


def show_more(
    evaluator: Evaluator,
    start: Combination,
    findings: Findings | None,
    reference_ids: Sequence[str] | None,
    output_root: Path,
    safe: bool,
    *,
    learning_curve: bool,
    check: bool,
    similarity: bool,
    seed: int,
) -> None:
    """Print what else is asked for; pictures and lists, `safe` for spreadsheets, go to `output_root`."""
    from terminal import measures, output, soundness

    if learning_curve:
        measures.show_learning_curve(evaluator, start, findings, seed)
    if check:
        soundness.show(evaluator, start, output_root, safe=safe)
    if similarity:
        output.show_similarity(evaluator.coded, reference_ids or list(evaluator.coded.references)[:1], output_root)


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
    add_rejection_options(parser)
    cli.add_seed(parser)
    cli.add_cluster(parser)
    add_matrix_options(parser, METHODS)
    return parser


def run(args: argparse.Namespace, command: str) -> None:
    from combinations import paddings, search
    from conclusions import verdict
    from evaluation.evaluator import Evaluator
    from evaluation.learning import asked_for, choose_recipes, first_asked, with_classifiers
    from evaluation.records import Rule
    from terminal import measures, output, prompt, sides, tables
    from unknowns import rejection

    check_rejection(args.classifier, args.reject, args.val_npz, args.unknown_npz, args.threshold)
    if args.interactive:
        prompt.check_alone(vars(args))
    given = [("--train_npz", args.train_npz, args.reference_split), ("--test_npz", args.test_npz, args.query_split)]
    given += [("--val_npz", args.val_npz, "val")] if args.val_npz else []
    reading = {name: vars(args)[name] for name in ("label_level", "group_by")} | cli.reading(args)
    coded, *held_out = sides.read_coded(given, **reading)
    rule = Rule(args.fusion, args.k, args.vote_weights, args.exclude)
    title = args.company_name or coded.dataset
    draw_maps = partial(output.draw, coded, rule, top_n=args.top_n_labels, output_root=args.output_root, seed=args.seed)
    with searching(args.cluster) as searched, output.told_as(args.format, command) as tell:
        evaluator = Evaluator(coded, rule, searched)
        validation = Evaluator(held_out[0], rule) if held_out else None
        sides.warn_of([coded], rule)
        combinations = search.chosen_combinations(coded, rule.fusion, args.reference_ids, args.query_ids)
        rejection.check(evaluator, combinations, args.reject, args.threshold)
        messages.show(tables.sets(coded, rule, title))
        if args.interactive:
            prompt.interact(evaluator, draw_maps, METHODS, args.plot or ["pca"])
            return
        named = args.reference_ids or args.query_ids
        start = combinations[0] if named else paddings.starting_pair(evaluator, args.baseline)
        learnt = choose_recipes(args.classifier, validation or evaluator, start, on_queries=bool(validation))
        recipes, choices = learnt
        asked, decided, findings = with_classifiers(combinations, recipes), {}, None
        if named:
            rows = paddings.classifier_rows(evaluator, start, recipes, seed=args.seed)
            decided = measures.show(evaluator, asked, choices, rows)
        else:
            findings = verdict.of_pairs(evaluator, title, args.query_split, args.baseline, start, learnt, args.seed)
            rows = paddings.padding_rows(evaluator, first_asked(recipes), seed=args.seed)
            messages.show(tables.matrix(coded, rule, findings, rows, recipes))
            if args.plot or args.predictions:
                decided = {combination: evaluator.decide(combination) for combination in asked}
        if args.reject:
            how = args.reject, args.unknown_npz, args.threshold
            messages.show(rejection.rejection(evaluator, validation, combinations, *how))
        asked_too = {name: vars(args)[name] for name in ("learning_curve", "check", "similarity", "seed")}
        show_more(evaluator, start, findings, args.reference_ids, args.output_root, args.spreadsheet_safe, **asked_too)
        if args.plot or args.predictions:
            keep(evaluator, decided, draw_maps, args.plot, args.predictions, args.spreadsheet_safe)
        if args.results or args.format == "json" or args.references_vary:
            findings = findings or verdict.of_decisions(evaluator, decided, title, args.query_split, choices, args.seed)
            if args.references_vary:
                varied = [*with_classifiers([start], asked_for(recipes)), start] if recipes[1:] else combinations
                findings = measures.show_new_references(evaluator, findings, args.label_level, args.seed, varied)
            tell(rule, findings)
            to = args.results, args.results_mode, args.spreadsheet_safe
            output.add_to_results(*to, coded, rule, findings, command)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return cli.main(build_parser(), partial(run, command=shlex.join(["python", Path(__file__).name, *words])), argv)


if __name__ == "__main__":
    sys.exit(main())
