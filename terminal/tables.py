"""What the evaluation scripts print of several combinations: the fixed line, the matrix of single pairs, the ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from combinations.comparison import Comparison, Result
from common import messages
from evaluation.codes import CodedSets
from evaluation.records import Combination


def fixed_line(combination: Combination, accuracy: float) -> str:
    """Return the line that users grep for: `Ref [0, 10] Query 10 => acc: 0.8421`."""
    return (
        f"Ref [{', '.join(combination.reference_ids)}] Query {'+'.join(combination.query_ids)} => acc: {accuracy:.4f}"
    )


def matrix(coded: CodedSets, accuracies: Mapping[Combination, float]) -> str:
    """Return Accuracy@1 of every reference set against every query set as a table, then each in the fixed form."""
    by_ids = {(pair.reference_ids[0], pair.query_ids[0]): f"{value:.4f}" for pair, value in accuracies.items()}
    rows = [[r, *(by_ids.get((r, q), "-") for q in coded.queries)] for r in coded.references]
    lines = [fixed_line(pair, value) for pair, value in accuracies.items()]
    table = messages.table(["ref \\ query", *coded.queries], rows)
    return "Accuracy@1, reference ID by row, query ID by column\n\n" + table + "\n\n" + "\n".join(lines)


def ranking(results: Sequence[Result], top: int) -> str:
    """Return the best `top` combinations as a table."""

    def text(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    rows = [
        (
            rank,
            "+".join(result.combination.reference_ids),
            "+".join(result.combination.query_ids),
            f"{result.score:.4f}",
            f"{result.low:.4f} to {result.high:.4f}",
            text(result.difference, "+.4f"),
            text(result.p, ".3f"),
            "*" if result.pareto else "",
        )
        for rank, result in enumerate(results[:top], 1)
    ]
    return messages.table(
        ["rank", "references", "queries", "accuracy", "95% interval", "difference", "p", "Pareto"], rows
    )


def summary(ranked: Comparison, final: Comparison, top: int, chosen_on: str | None, query_split: str) -> str:
    """Return the ranking, the baseline and what may be believed of the winner; `chosen_on`: the split it was chosen on."""
    base = ranked.baseline
    text = (
        f"Best of {messages.count(len(ranked.results), 'combination')}{f' on {chosen_on}' if chosen_on else ''}; "
        f"baseline {base.combination} {base.score:.4f}\n\n{ranking(ranked.results, top)}\n\n"
    )
    if chosen_on:
        return text + f"Chosen on {chosen_on}, scored once on {query_split}\n\n{ranking(final.results, 2)}\n"
    return (
        text
        + "The winner was chosen on the queries it is scored on, so its accuracy is optimistic; choose with --val_npz."
    )
