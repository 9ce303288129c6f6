#!/usr/bin/env python3
"""Score query embeddings against reference embeddings by cosine k-NN.

Without IDs: the matrix of every reference set against every query set. With IDs: the reference sets merged, the query sets
scored one by one, with every measure.

  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz
  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --reference_ids 0 10 --query_ids 10 --plot umap
  python evaluate_combo.py --train_npz embeddings/*.npz --test_npz embeddings/*.npz --interactive
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, knn, messages
from evaluation.options import add_evaluation_options
from plots import projection

if TYPE_CHECKING:
    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination


def fixed_line(combination: Combination, accuracy: float) -> str:
    """Return the line that users grep for: `Ref [0, 10] Query 10 => acc: 0.8421`."""
    return (
        f"Ref [{', '.join(combination.reference_ids)}] Query {'+'.join(combination.query_ids)} => acc: {accuracy:.4f}"
    )


def show_matrix(evaluator: Evaluator) -> None:
    """Print Accuracy@1 of every reference set against every query set, then each in the fixed form."""
    from combinations.search import enumerate_combinations

    refs, queries = list(evaluator.references), list(evaluator.queries)
    pairs = [one for one in enumerate_combinations(refs, queries, 1, 1, "crossed") if evaluator.valid(one)]
    accuracy = {pairs[at]: tally.accuracy for at, tally in evaluator.tallies(pairs)}
    by_ids = {(pair.reference_ids[0], pair.query_ids[0]): value for pair, value in accuracy.items()}
    print("Accuracy@1, reference ID by row, query ID by column\n")
    rows = [[r, *(f"{by_ids[r, q]:.4f}" if (r, q) in by_ids else "-" for q in queries)] for r in refs]
    print(messages.table(["ref \\ query", *queries], rows) + "\n")
    for pair, value in accuracy.items():
        print(fixed_line(pair, value))


def show(evaluator: Evaluator, combination: Combination) -> None:
    """Print every measure of one combination."""
    import numpy as np

    from evaluation import per_query
    from evaluation.metrics import RECALL_AT
    from uncertainty import intervals

    decisions = evaluator.decide(combination)
    tally = evaluator.tally(decisions, combination.reference_ids)
    print(fixed_line(combination, tally.accuracy))
    names = [("Accuracy@1", 0)] + ([(f"Accuracy@{evaluator.k}", 1)] if evaluator.k > 1 else [])
    for name, row in names:
        interval = intervals.accuracy_interval(tally.image_right[row], tally.image_size)
        few = ", few images" if interval.few_images else ""
        value = tally.right[row] / tally.n
        print(
            f"  {name} {value:.4f}, 95 % interval {interval.low:.4f} to {interval.high:.4f} ({interval.n_images} images{few})"
        )
    answerable = tally.n - tally.n_unknown
    share = f"{tally.right[0] / answerable:.4f}" if answerable else "-"
    print(f"  Decisions {tally.n:,}, of a label no reference has {tally.n_unknown:,}; accuracy over the others {share}")
    references = sum(len(evaluator.references[r]) for r in combination.reference_ids)
    recall = [
        f"Recall@{k} {hits / tally.n:.4f}" for k, hits in zip(RECALL_AT, tally.recalled, strict=True) if k <= references
    ]
    (average_precision, r_precision), image = per_query.retrieval(evaluator, combination)
    within = intervals.accuracy_interval(np.bincount(image, average_precision), np.bincount(image))
    print(f"  MAP@R {average_precision.mean():.4f}, 95 % interval {within.low:.4f} to {within.high:.4f}")
    print(f"  {'  '.join(recall)}  R-precision {r_precision.mean():.4f}  Macro-F1 {tally.scores.macro_f1:.4f}\n")
    scores = tally.scores
    columns = zip(evaluator.classes, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    rows = [(name, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", int(n)) for name, p, r, f, n in columns if n]
    rows.sort(key=lambda row: (row[3], row[0]))
    shown = rows[:30]
    print(messages.table(["label, worst first", "precision", "recall", "F1", "queries"], shown))
    if len(rows) > len(shown):
        print(f"… and {len(rows) - len(shown):,} labels with higher F1; --predictions writes every query")
    print()


def show_similarity(evaluator: Evaluator, ids: Sequence[str], output_root: Path) -> None:
    """Print the mean cosine within and between classes of the merged references and draw it class by class."""
    import numpy as np

    from evaluation import metrics
    from plots import heatmaps

    sets = [evaluator.references[r] for r in ids]
    vectors = np.concatenate([knn.unit(one.vectors) for one in sets])
    labels = np.concatenate([evaluator.reference_label[r] for r in ids])
    present, codes = np.unique(labels, return_inverse=True)
    result = metrics.similarity(vectors, codes, len(present))
    print(
        f"Similarity of references {'+'.join(ids)}: mean cosine within classes {result.within:.4f}, between classes "
        f"{result.between:.4f}, silhouette {result.silhouette:.4f}"
    )
    names, own = evaluator.classes[present], np.diag(result.matrix)
    apart = result.matrix + np.diag(np.full(len(present), np.nan))
    with np.errstate(all="ignore"):
        nearest = np.nanargmax(np.where(np.isnan(apart), -2, apart), axis=1) if len(present) > 1 else None
    if nearest is not None:
        rows = [
            (name, f"{own[i]:.4f}", f"{apart[i, nearest[i]]:.4f}", names[nearest[i]]) for i, name in enumerate(names)
        ]
        rows.sort(key=lambda row: float(row[2]), reverse=True)
        print(messages.table(["label", "within", "to nearest class", "nearest class"], rows[:30]))
    path = output_root / files.name_part(f"similarity_{'+'.join(ids)}.png")
    heatmaps.similarity_heatmap(
        path, result.matrix, list(names), title=f"Mean cosine between classes, references {'+'.join(ids)}"
    )
    print(f"wrote {path} and .svg\n")


def draw(
    evaluator: Evaluator, combination: Combination, methods: Sequence[str], top_n: int, output_root: Path, seed: int
) -> None:
    """Draw references and queries of one combination as 2-D maps."""
    import numpy as np

    from plots import maps

    decisions = evaluator.decide(combination)
    chosen = [evaluator.references[r] for r in combination.reference_ids] + [
        evaluator.queries[q] for q in combination.query_ids
    ]
    vectors = np.concatenate([np.asarray(one.vectors) for one in chosen])
    labels = [evaluator.reference_label[r] for r in combination.reference_ids]
    labels += [evaluator.query_label[q] for q in combination.query_ids]
    n_reference = sum(map(len, labels[: len(combination.reference_ids)]))
    role = np.where(np.arange(len(vectors)) < n_reference, "reference", "query")
    correct = np.ones(len(vectors), bool)
    if evaluator.mode == "stack":
        correct[n_reference:] = decisions.voted == decisions.label
    for method in methods:
        points = projection.project(vectors, method, 2, seed=seed)
        ids = "_".join("+".join(part) for part in (combination.reference_ids, combination.query_ids))
        path = output_root / files.name_part(f"{method}_{ids}.png")
        title = f"{method.upper()}, references {'+'.join(combination.reference_ids)}, queries {'+'.join(combination.query_ids)}"
        names = evaluator.classes[np.concatenate(labels)]
        maps.embedding_map(path, points, names, top_n=top_n, marker_by=role, correct=correct, title=title)
        print(f"wrote {path} and .svg")


def interact(evaluator: Evaluator, args: argparse.Namespace) -> None:
    """Read IDs from the terminal: every new one joins the references and is scored as query against all of them."""
    from evaluation.records import Combination

    print("Type IDs to add them as references; or: list, remove ID…, plot [pca|tsne|umap], q", flush=True)
    merged: list[str] = []

    def add(word: str) -> str:
        if word in merged:
            return f"{word} is already among the references"
        merged.append(word)
        if word not in evaluator.queries:
            return f"{word} joined the references; there is no query set {word} to score"
        combination = Combination(tuple(merged), (word,))
        return fixed_line(
            combination, evaluator.tally(evaluator.decide(combination), combination.reference_ids).accuracy
        )

    while True:
        sys.stderr.write("ids> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        command, *words = line.replace(",", " ").split() or [""]
        if not line or command in ("q", "quit", "exit"):
            return
        try:
            if command == "list":
                print(
                    f"references: {', '.join(evaluator.references)}; queries: {', '.join(evaluator.queries)}; merged: {merged}"
                )
            elif command == "remove":
                for word in words:
                    merged.remove(word) if word in merged else print(f"{word} is not among the merged: {merged}")
                print(f"merged: {merged}")
            elif command == "plot":
                queries = tuple(word for word in merged if word in evaluator.queries)
                methods = [word for word in words if word in projection.METHODS] or args.plot or ["pca"]
                if queries:
                    draw(
                        evaluator,
                        Combination(tuple(merged), queries),
                        methods,
                        args.top_n_labels,
                        args.output_root,
                        args.seed,
                    )
                else:
                    print("nothing to draw: add IDs first")
            else:
                for word in dict.fromkeys([command, *words]) if command else []:
                    known = word in evaluator.references
                    print(
                        add(word) if known else f"no reference set {word}; there are: {', '.join(evaluator.references)}"
                    )
        except messages.UserError as error:  # a mistake at the prompt must not end the session
            print(error)
        sys.stdout.flush()


def chosen_combinations(
    evaluator: Evaluator, reference_ids: list[str] | None, query_ids: list[str] | None
) -> list[Combination]:
    """Return the combinations that the IDs on the command line stand for. Raises UsageError for an unknown ID."""
    from evaluation.records import Combination

    for ids, known, side in (
        (reference_ids, evaluator.references, "reference"),
        (query_ids, evaluator.queries, "query"),
    ):
        for one in ids or []:
            if one not in known:
                raise messages.UsageError(f"--{side}_ids {one}: no such {side} set; there are: {', '.join(known)}")
    queries = tuple(dict.fromkeys(query_ids or evaluator.queries))
    if evaluator.mode != "stack" and reference_ids:
        return [Combination(tuple(dict.fromkeys(reference_ids)), queries)]
    if reference_ids:
        return [Combination(tuple(dict.fromkeys(reference_ids)), (q,)) for q in queries]
    if query_ids:
        return [Combination(tuple(evaluator.references), (q,)) for q in queries]
    return [Combination((q,), (q,)) for q in queries if q in evaluator.references]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add_evaluation_options(parser)
    cli.add_seed(parser)
    cli.add_cluster(parser)
    parser.add_argument(
        "--reference_ids", nargs="+", metavar="ID", help="reference sets to merge (default: the whole matrix)"
    )
    parser.add_argument("--query_ids", nargs="+", metavar="ID", help="query sets to score (default: all)")
    parser.add_argument("--interactive", action="store_true", help="read IDs from the terminal")
    parser.add_argument(
        "--similarity", action="store_true", help="mean cosine within and between classes, with a heat map"
    )
    parser.add_argument("--plot", nargs="+", choices=projection.METHODS, default=[], help="2-D maps to draw")
    parser.add_argument(
        "--top_n_labels", type=cli.whole(1), default=10, metavar="N", help="labels drawn; the rest is OTHER"
    )
    parser.add_argument("--output_root", type=Path, default=Path("evaluation"), help="folder of the pictures")
    parser.add_argument(
        "--predictions",
        type=cli.Output(".csv", ".parquet"),
        metavar="FILE",
        help="write every decision to this .csv or .parquet",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from common.embedding_sets import read_sides
    from evaluation.evaluator import Evaluator

    references, queries = read_sides(
        [("--train_npz", args.train_npz, args.reference_split), ("--test_npz", args.test_npz, args.query_split)],
        **{name: getattr(args, name) for name in ("label_level", "key", "company_name", "drop_invalid")},
    )
    exclude = "self" if args.exclude_self else "sample" if args.exclude_same_sample else "none"
    options = {"mode": args.fusion, "k": args.k, "vote_weights": args.vote_weights, "label_level": args.label_level}
    if args.cluster:
        from ray_cluster import connection, tasks

        with connection.connected(args.cluster) as cluster:
            search = partial(tasks.search, cluster)
            evaluate(Evaluator(references, queries, exclude=exclude, search=search, **options), args)
            cluster.report()
    else:
        evaluate(Evaluator(references, queries, exclude=exclude, **options), args)


def evaluate(evaluator: Evaluator, args: argparse.Namespace) -> None:
    """Print and draw what the command line asks for."""
    from common import files
    from evaluation import per_query
    from evaluation.evaluator import remarks

    references, queries = evaluator.references, evaluator.queries
    for remark in remarks(evaluator):
        messages.warn(remark)
    combinations = chosen_combinations(evaluator, args.reference_ids, args.query_ids)
    name = args.company_name or next(iter(queries.values())).dataset or "-"
    print(
        f"Dataset {name}: {messages.count(len(references), 'reference set')}, "
        f"{messages.count(len(queries), 'query set')}, {messages.count(len(evaluator.classes), 'label')}, "
        f"fusion {args.fusion}, k {args.k}\n"
    )
    if args.interactive:
        interact(evaluator, args)
        return
    if args.reference_ids or args.query_ids:
        for one in combinations:
            show(evaluator, one)
    else:
        show_matrix(evaluator)
    if args.similarity:
        show_similarity(evaluator, args.reference_ids or list(evaluator.references)[:1], args.output_root)
    if (args.plot or args.predictions) and not combinations:
        raise messages.UsageError(
            "no reference and query set share an ID; name sets with --reference_ids and --query_ids"
        )
    for one in combinations if args.plot else []:
        draw(evaluator, one, args.plot, args.top_n_labels, args.output_root, args.seed)
    if args.predictions:
        import pandas as pd

        frame = pd.concat([per_query.prediction_table(evaluator, one) for one in combinations], ignore_index=True)
        files.write_table(args.predictions, frame)
        print(f"wrote {args.predictions}: {messages.count(len(frame), 'prediction')}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
