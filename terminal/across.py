"""What --across_datasets prints: every combination over several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.messages import UsageError, count, table, wrap
from conclusions.across import AcrossRow, across
from evaluation.evaluator import Evaluator
from evaluation.records import Rule
from terminal import sides

# Options that speak of one data set, by their name and what they are without being given.
OF_ONE: dict[str, object] = {
    "val_npz": None,
    "classifier": [],
    "report": None,
    "flips": None,
    "baseline": None,
    "references_vary": False,
}
OF_ONE |= {
    "check": False,
    "learning_curve": False,
    "blocks": False,
    "search": "exhaustive",
    "format": "text",
    "company_name": None,
}


def check_alone(values: Mapping[str, object]) -> None:
    """Raise UsageError for an option, among the values of all, that does not go with --across_datasets."""
    given = [name for name, nothing in OF_ONE.items() if values[name] != nothing]
    if given:
        raise UsageError(f"--{given[0]} and --across_datasets do not go together; leave one away")


def show(
    given: Sequence[tuple[str, Sequence[str], str]],
    rule: Rule,
    *,
    size: tuple[int, int],
    pairing: str,
    top: int,
    seed: int,
    reading: Mapping[str, Any],
    coding: Mapping[str, Any],
) -> None:
    """Print the combinations over all data sets; `given`, `reading`, `coding`: see sides.read_coded."""
    evaluators = {}
    for dataset, own in sides.by_dataset(given, **reading).items():
        (coded,) = sides.read_coded(own, **coding, **reading)
        sides.warn_of([coded], rule)
        evaluators[dataset] = Evaluator(coded, rule)
    print(text(across(evaluators, size, pairing, seed=seed), evaluators, top))


def text(rows: Sequence[AcrossRow], evaluators: Mapping[str, Evaluator], top: int) -> str:
    """Return the table of combinations over data sets, the best first, with what stands in it and what it says."""
    first = next(row.combination for row in rows if row.difference is None)
    photos = ", ".join(
        f"{name} ({count(len(one.coded.images), one.coded.units.noun())})" for name, one in evaluators.items()
    )
    heading = (
        f"Across {count(len(evaluators), 'data set')}, each with the same weight: {photos}\n"
        f"points: difference from {first}, random effects over data sets, one combination at a time; "
        "new data set: 95% prediction interval"
    )
    cells = [
        (
            row.combination,
            f"{row.accuracy:.4f}",
            *_difference(row),
            f"{row.rank_low} to {row.rank_high}",
            f"{row.best:.2f}",
        )
        for row in rows[:top]
    ]
    header = ["combination", "accuracy", "points", "95% interval", "new data set", "spread", "95% ranks", "best"]
    more = f"\n… and {len(rows) - top:,} more" if len(rows) > top else ""
    return f"{wrap(heading)}\n\n{table(header, cells)}{more}\n\n{wrap(_sentence(rows, first))}"


def _difference(row: AcrossRow) -> tuple[str, str, str, str]:
    gap = row.difference
    if gap is None:
        return "-", "-", "-", "-"
    spread = "-" if gap.spread != gap.spread else f"{100 * gap.spread:.1f}"
    new = f"{100 * gap.new_low:+.1f} to {100 * gap.new_high:+.1f}" if gap.n_datasets > 2 else "unknown"
    return f"{100 * gap.mean:+.1f}", f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}", new, spread


def _sentence(rows: Sequence[AcrossRow], first: object) -> str:
    better = [str(row.combination) for row in rows if row.difference and row.difference.low > 0]
    worse = sum(1 for row in rows if row.difference and row.difference.high < 0)
    if better:
        return f"Over these data sets {better[0]} is better than {first}; {count(worse, 'other')} worse."
    return (
        f"Over these data sets no combination is shown to be better than {first}; {worse} of {len(rows) - 1} are worse."
    )
