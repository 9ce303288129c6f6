#!/usr/bin/env python3
"""Search combinations of embedding sets for the best references and queries.

Every pair of sets is searched once; combinations merge the results, get intervals that respect that crops of one photo belong
together, and are ranked with the single pairs. Each run is added to results.txt and results.csv, with the verdict in words.

  python greedy_combo_eval.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --combination_size 2
  python greedy_combo_eval.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --combination_size 1-3 --report report.html
  python greedy_combo_eval.py --train_npz embeddings/*.npz --val_npz embeddings/*.npz --test_npz embeddings/*.npz --search greedy
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages
from terminal.options import add_evaluation_options, add_search_options, check_search

if TYPE_CHECKING:
    from classifiers.recipes import Recipe
    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination, Rule, Tally


def exhaustive(
    evaluator: Evaluator, recipes: Sequence[Recipe], size: tuple[int, int] | None, pairing: str, at_most: int
) -> dict[Combination, Tally]:
    """Return the totals of every single pair, and of every combination of the given size of sets a side, for each recipe."""
    from combinations.search import asked_combinations, count_combinations

    references, queries = list(evaluator.coded.references), list(evaluator.coded.queries)
    if pairing == "matched" and (only := sorted(set(references) ^ set(queries))):
        messages.warn(f"left out of matched combinations, as only one side has the ID: {', '.join(only)}")
    low, high = size or (2, 2)
    if not any(count_combinations(references, queries, *sizes, pairing) for sizes in ((low, high), (2, 2))):
        messages.note("combinations need at least two sets on both sides; only single pairs are scored")
        low, high = 1, 1
    asked = asked_combinations(references, queries, low, high, pairing, at_most, recipes)
    valid = [combination for combination in asked if evaluator.valid(combination)]
    if len(valid) < len(asked):
        left_out = messages.count(len(asked) - len(valid), "combination")
        messages.note(f"{left_out} of sets of several models or variants, or without a crop in common, left out")
    if not valid:
        raise messages.UsageError("no query set has references of its own model; add files, or see --reference_split")
    tallies = dict(
        messages.progress(evaluator.tallies(valid), total=len(valid), desc="combinations", unit="combination")
    )
    return {combination: tallies[index] for index, combination in enumerate(valid)}


def step_by_step(
    evaluator: Evaluator, recipes: Sequence[Recipe], pairing: str, min_gain: float, max_size: int
) -> dict[Combination, Tally]:
    """Search greedily, print every step, and return the totals of every combination tried."""
    from combinations import comparison
    from combinations.search import greedy

    scored: dict[Combination, Tally] = {}
    before = None
    steps = greedy(evaluator, comparison.score, recipes, pairing=pairing, min_gain=min_gain, max_size=max_size)
    for number, step in enumerate(steps, 1):
        now = comparison.score(step.candidates[step.chosen])
        gain = "" if before is None else f", gain {now - before:+.4f}"
        end = "" if step.gains else "; not enough, so the search ends"
        told = f"step {number}: {step.chosen} {now:.4f}{gain}, best of {len(step.candidates)}{end}"
        (messages.show if before is None else print)(told)
        # What gains less than --min_gain is not to win.
        of_step = step.candidates.items()
        scored |= {one: tally for one, tally in of_step if step.gains or comparison.score(tally) <= (before or 0)}
        before = now
    if not scored:
        raise messages.UsageError(
            "no single pair of sets can be scored; with --pairing matched both sides need the same IDs"
        )
    return scored


def over_datasets(
    given: Sequence[tuple[str, Sequence[str], str]],
    rule: Rule,
    values: Mapping[str, Any],
    coding: Mapping[str, Any],
    reading: Mapping[str, Any],
) -> None:
    """Print one answer over several data sets; `values`: those of all options."""
    from terminal import across

    across.check_alone(values)
    chosen = {name: values[name] for name in ("pairing", "top", "seed")}
    across.show(given, rule, size=values["combination_size"] or (2, 2), **chosen, coding=coding, reading=reading)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add_evaluation_options(parser)
    cli.add_seed(parser)
    add_search_options(parser)
    return parser


def run(args: argparse.Namespace, command: str) -> None:
    from combinations import comparison
    from combinations.paddings import starting_pair
    from conclusions import results
    from conclusions.verdict import of_search
    from evaluation.evaluator import Evaluator
    from evaluation.learning import choose_recipes
    from evaluation.records import Rule
    from report import page
    from terminal import output, sides, soundness, tables
    from terminal.measures import report_learning_curve, show_new_references

    check_search(args.fusion, args.pairing)
    given = [("--train_npz", args.train_npz, args.reference_split), ("--test_npz", args.test_npz, args.query_split)]
    given += [("--val_npz", args.val_npz, args.val_split)] if args.val_npz else []
    coding = {name: vars(args)[name] for name in ("label_level", "group_by", "data_root")}
    rule = Rule(args.fusion, args.k, args.vote_weights, args.exclude)
    if args.across_datasets:
        return over_datasets(given, rule, vars(args), coding, cli.reading(args))
    evaluators = [Evaluator(coded, rule) for coded in sides.read_coded(given, **coding, **cli.reading(args))]
    test, chooser = evaluators[0], evaluators[-1]
    sides.warn_of([one.coded for one in evaluators], rule)
    start = starting_pair(chooser, args.baseline)
    recipes, choices = choose_recipes(args.classifier, chooser, start, on_queries=bool(args.val_npz))
    with output.told_as(args.format, command) as tell:
        if args.search == "exhaustive":
            scored = exhaustive(chooser, recipes, args.combination_size, args.pairing, args.max_combinations)
        else:
            scored = step_by_step(chooser, recipes, args.pairing, args.min_gain, args.max_size)
        ranked = comparison.compare_all(chooser, scored, args.baseline, args.seed)
        chosen_on = args.val_split if args.val_npz else None
        splits = args.query_split, chosen_on
        title = args.company_name or test.coded.dataset
        findings = of_search(test, ranked, start, (recipes, choices), title, splits, args.seed)
        if args.references_vary:
            findings = show_new_references(test, findings, args.label_level, args.seed)
        if args.blocks:
            messages.show("".join(results.blocks(test.coded, rule, findings)).rstrip("\n"))
        try:
            checked = soundness.report(test, starting_pair(test, None)) if args.check else None
            curve = report_learning_curve(test, findings, args.seed) if args.learning_curve else None
            decided = comparison.decide_reported(test, findings.final, ranked) if args.flips or args.report else {}
            if args.flips:
                how = args.if_independent, args.seed, args.spreadsheet_safe
                output.write_flips(test, decided, findings.final, args.flips, *how)
            if args.report:
                page.write(args.report, test, decided, findings, checked=checked, curve=curve, seed=args.seed)
                messages.show(f"wrote {args.report}")
            # Last: where this run stands in results.txt, the other files are those of this run.
            to = args.results, args.results_mode, args.spreadsheet_safe
            output.add_to_results(*to, test.coded, rule, findings, command)
        finally:  # what was searched is shown even where a file cannot be written
            messages.show(tables.summary(findings, args.top, tables.grouped(chooser.coded)))
            tell(rule, findings)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return cli.main(build_parser(), partial(run, command=shlex.join(["python", Path(__file__).name, *words])), argv)


if __name__ == "__main__":
    sys.exit(main())
