#!/usr/bin/env python3
"""Search combinations of embedding sets for the best references and queries.

Every pair of sets is searched once; combinations merge the results, get intervals that respect that crops of one photo belong
together, and are compared with the best single pair. Blocks are appended to results.txt, results.csv holds this run's rows.

  python greedy_combo_eval.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --combination_size 2
  python greedy_combo_eval.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --combination_size 1-3 --report report.html
  python greedy_combo_eval.py --train_npz embeddings/*.npz --val_npz embeddings/*.npz --test_npz embeddings/*.npz --search greedy
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, messages
from evaluation.options import add_evaluation_options

if TYPE_CHECKING:
    from combinations.comparison import Comparison, Result
    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination, Tally


def size_range(text: str) -> tuple[int, int]:
    """Return (low, high) of `2` or `1-3`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a size such as 2 nor a range such as 1-3")
    return low, high


def asked_combinations(evaluator: Evaluator, args: argparse.Namespace) -> list[Combination]:
    """Return the combinations of an exhaustive search. Raises UsageError when there are none, or too many."""
    from combinations.search import count_combinations, enumerate_combinations

    refs, queries = list(evaluator.references), list(evaluator.queries)
    low, high = args.combination_size
    if args.pairing == "matched" and (only := sorted(set(refs) ^ set(queries))):
        messages.warn(f"left out of matched combinations, as only one side has the ID: {', '.join(only)}")
    n = count_combinations(refs, queries, low, high, args.pairing)
    if n > args.max_combinations:
        raise messages.UsageError(
            f"--combination_size {low}-{high} of {len(refs)} reference and {len(queries)} query sets gives {n:,} combinations; "
            f"choose fewer sets or sizes, --search greedy, or allow it with --max_combinations {n}"
        )
    combinations = enumerate_combinations(refs, queries, low, high, args.pairing)
    valid = [one for one in combinations if evaluator.valid(one)]
    if len(valid) < len(combinations):
        messages.note(
            f"{len(combinations) - len(valid):,} combinations have a query set without references of its model, left out"
        )
    if not valid:
        raise messages.UsageError(
            f"--combination_size {low} needs at least {low} sets on both sides"
            f"{' with the same IDs' if args.pairing == 'matched' else ''}; "
            f"there are {len(refs)} reference and {len(queries)} query sets"
        )
    return valid


def search(evaluator: Evaluator, args: argparse.Namespace) -> Comparison:
    """Return every combination tried, ranked and compared with the baseline."""
    from combinations import comparison
    from combinations.search import greedy

    def exhaustive() -> Iterator[tuple[Combination, Tally]]:
        asked = asked_combinations(evaluator, args)
        for at, tally in messages.progress(
            evaluator.tallies(asked), total=len(asked), desc="combinations", unit="combination"
        ):
            yield asked[at], tally

    def greedily() -> Iterator[tuple[Combination, Tally]]:
        steps = greedy(
            evaluator, comparison.score, pairing=args.pairing, min_gain=args.min_gain, max_size=args.max_size
        )
        before = None
        for number, step in enumerate(steps, 1):
            now = comparison.score(dict(step.candidates)[step.chosen])
            gain = "" if before is None else f", gain {now - before:+.4f}"
            print(f"step {number}: {step.chosen} {now:.4f}{gain}, best of {len(step.candidates)}")
            before = now
            yield from step.candidates
        print()

    scored = list(exhaustive() if args.search == "exhaustive" else greedily())
    if not scored:
        raise messages.UsageError(
            "no single pair of sets can be scored; with --pairing matched both sides need the same IDs"
        )
    if args.baseline:
        return comparison.compare(evaluator, scored, named_pair(evaluator, args.baseline), seed=args.seed)
    pairs = comparison.single_pairs(evaluator, args.pairing)
    return comparison.compare(evaluator, scored, pairs[0][0], rivals=pairs, seed=args.seed)


def named_pair(evaluator: Evaluator, text: str) -> Combination:
    """Return the combination `R/Q`, IDs of one side joined by `+`. Raises UsageError for what there is not."""
    from evaluation.records import Combination

    sides = [tuple(side.split("+")) for side in text.split("/")]
    if len(sides) != 2 or not all(one in evaluator.references for one in sides[0]):
        raise messages.UsageError(
            f"--baseline {text}: write R/Q with R among {', '.join(evaluator.references)}, such as 10/10"
        )
    if not all(one in evaluator.queries for one in sides[1]):
        raise messages.UsageError(f"--baseline {text}: no such query set; there are {', '.join(evaluator.queries)}")
    return Combination(*sides)


def ranking_table(results: Sequence[Result], top: int) -> str:
    """Return the best combinations as a table."""

    def text(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    rows = [
        (
            number,
            "+".join(one.combination.reference_ids),
            "+".join(one.combination.query_ids),
            f"{one.score:.4f}",
            f"{one.low:.4f} to {one.high:.4f}",
            text(one.difference, "+.4f"),
            text(one.p, ".3f"),
            "*" if one.pareto else "",
        )
        for number, one in enumerate(results[:top], 1)
    ]
    return messages.table(
        ["rank", "references", "queries", "accuracy", "95% interval", "difference", "p", "Pareto"], rows
    )


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add_evaluation_options(parser)
    cli.add_seed(parser)
    group = parser.add_argument_group("combinations")
    group.add_argument(
        "--combination_size", type=size_range, default=(2, 2), metavar="N|A-B", help="sets a side (default: 2)"
    )
    group.add_argument(
        "--pairing", choices=("crossed", "matched"), default="crossed", help="matched: the same IDs on both sides"
    )
    group.add_argument(
        "--search", choices=("exhaustive", "greedy"), default="exhaustive", help="every combination, or step by step"
    )
    group.add_argument("--min_gain", type=cli.number(0, 1), default=0.0, help="accuracy a greedy step must gain")
    group.add_argument("--max_size", type=cli.whole(1), default=3, help="sets a side that the greedy search may reach")
    group.add_argument("--max_combinations", type=cli.whole(1), default=5000, help="more than that is asked back")
    group.add_argument("--baseline", metavar="R/Q", help="what differences are from (default: the best single pair)")
    group.add_argument(
        "--val_npz", nargs="+", metavar="[ID=]NPZ", help="choose on these queries, report on --test_npz once"
    )
    group.add_argument("--val_split", default="val", metavar="SPLIT", help="split that --val_npz keeps")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--results",
        type=cli.Output(writes=("", ".csv")),
        default=Path("results.txt"),
        help="blocks are appended; .csv is written beside it",
    )
    output.add_argument("--top", type=cli.whole(1), default=10, help="rows of the ranking that is printed last")
    output.add_argument(
        "--flips",
        type=cli.Output(writes=(".parquet", ".csv")),
        metavar="FILE",
        help="which crops flip: FILE as .parquet and .csv",
    )
    output.add_argument(
        "--report", type=cli.Output(".html", ".htm"), metavar="FILE.html", help="one self-contained page"
    )
    output.add_argument(
        "--data_root", metavar="DIR", help="where the report finds the crops, if they have moved; may use {id}"
    )
    output.add_argument(
        "--if_independent", action="store_true", help="also print McNemar's p, as if crops were independent"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from combinations import results
    from combinations.comparison import compare
    from common.embedding_sets import read_sides
    from evaluation.evaluator import Evaluator, remarks

    if args.fusion == "concat" and args.pairing == "crossed":
        raise messages.UsageError("--fusion concat compares the same IDs on both sides only; add --pairing matched")

    sides = [("--train_npz", args.train_npz, args.reference_split), ("--test_npz", args.test_npz, args.query_split)]
    sides += [("--val_npz", args.val_npz, args.val_split)] if args.val_npz else []
    names = ("label_level", "key", "company_name", "drop_invalid")
    references, *queries = read_sides(sides, **{name: getattr(args, name) for name in names})
    exclude = "self" if args.exclude_self else "sample" if args.exclude_same_sample else "none"
    options = {"k": args.k, "vote_weights": args.vote_weights, "label_level": args.label_level}
    evaluators = [Evaluator(references, one, mode=args.fusion, exclude=exclude, **options) for one in queries]
    test, chooser = evaluators[0], evaluators[-1]
    for remark in dict.fromkeys(remark for evaluator in evaluators for remark in remarks(evaluator)):
        messages.warn(remark)
    title = args.company_name or next(iter(test.queries.values())).dataset or "-"
    ranked = search(chooser, args)
    if ranked.n_left_out:
        messages.note(
            f"{ranked.n_left_out:,} views are of crops that not every query set holds; comparisons leave them out"
        )
    final, scored_on = ranked, f"{args.query_split}, where it was also chosen"
    if args.val_npz:
        chosen = [ranked.results[0].combination, ranked.baseline.combination]
        missing = [one for one in chosen for q in one.query_ids if q not in test.queries]
        if missing:
            raise messages.UserError(
                f"--test_npz has no query set for the chosen {missing[0]}; give both sides the same IDs"
            )
        tallies = [(one, test.tally(test.decide(one), one.reference_ids)) for one in dict.fromkeys(chosen)]
        final, scored_on = (
            compare(test, tallies, chosen[1], seed=args.seed),
            f"{args.query_split}, chosen on {args.val_split}",
        )
    blocks = [results.block(test, one, final, title=title, scored_on=scored_on) for one in final.results]
    sys.stdout.write("".join(blocks))
    rows = [(args.query_split, test, final)] + ([(args.val_split, chooser, ranked)] if args.val_npz else [])
    results.write_csv(args.results.with_suffix(".csv"), rows, title=title)
    show_ranking(ranked, final, args)
    reported = [one.combination for one in final.results[:5]]
    if args.flips:
        write_flips(test, final.baseline.combination, reported, args)
    if args.report:
        from combinations import report

        if args.data_root:
            for sets in (test.references, test.queries):
                sets.update(
                    {
                        one: sets[one].renamed(data_root=args.data_root.replace("{id}", files.name_part(one)))
                        for one in sets
                    }
                )
        report.write(args.report, test, final, chosen_on=ranked if args.val_npz else None, title=title, seed=args.seed)
        print(f"wrote {args.report}")
    results.append(args.results, blocks)  # last: where they stand, the other files are those of this run


def show_ranking(ranked: Comparison, final: Comparison, args: argparse.Namespace) -> None:
    """Print the ranking, the baseline and what may be believed of the winner."""
    where = f" on {args.val_split}" if args.val_npz else ""
    base = ranked.baseline
    print(
        f"Best of {messages.count(len(ranked.results), 'combination')}{where}; baseline {base.combination} {base.score:.4f}\n"
    )
    print(ranking_table(ranked.results, args.top) + "\n")
    if args.val_npz:
        print(f"Chosen on {args.val_split}, scored once on {args.query_split}\n\n{ranking_table(final.results, 2)}\n")
    else:
        print(
            "The winner was chosen on the queries it is scored on, so its accuracy is optimistic; choose with --val_npz."
        )


def write_flips(
    evaluator: Evaluator, baseline: Combination, reported: list[Combination], args: argparse.Namespace
) -> None:
    """Write the table of flips and print how many crops each combination rescues and breaks."""
    from combinations import flips
    from common import files

    table = flips.table(evaluator, baseline, [one for one in reported if one != baseline] or [baseline])
    for path in (args.flips.with_suffix(".parquet"), args.flips.with_suffix(".csv")):
        files.write_table(path, table)
    for one in reported:
        if one == baseline:
            continue
        change = flips.compare(evaluator, baseline, one, seed=args.seed)
        counts = (
            f"{change.rescued.sum()} rescued, {change.broken.sum()} broken, {change.split} split, net {change.net:+d}"
        )
        mcnemar = f" (McNemar {change.mcnemar_p:.3f}, if crops were independent)" if args.if_independent else ""
        print(f"{one} against {baseline}: {counts}, p {change.p:.3f}{mcnemar}")
    print(f"wrote {args.flips.with_suffix('.parquet')} and .csv: {messages.count(len(table), 'crop')}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
