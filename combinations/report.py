"""The self-contained HTML page about a search over combinations: the numbers here, the looks in report.html and common/page.css."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from combinations import flips, report_cards, report_charts, report_tables
from combinations.comparison import Comparison, Result
from common import files
from evaluation.evaluator import Evaluator, remarks
from evaluation.fusion import DECISION
from evaluation.records import Combination
from uncertainty import intervals

RANKED = 25  # rows of the ranking
TRIED = 5  # combinations that are looked through for flips where the baseline is the best


def write(
    path: Path,
    evaluator: Evaluator,
    comparison: Comparison,
    *,
    chosen_on: Comparison | None = None,
    title: str,
    seed: int = 0,
) -> None:
    """Write the page of `comparison`, scored by `evaluator`, to `path`, whole or not at all.

    `chosen_on`: the search on validation sets whose first combination `comparison` scores once; without it the combination was
    chosen on the queries it is scored on, and the page says so.
    """
    files.write_text(path, page(evaluator, comparison, chosen_on=chosen_on, title=title, seed=seed))


def page(
    evaluator: Evaluator, comparison: Comparison, *, chosen_on: Comparison | None, title: str, seed: int = 0
) -> str:
    """Return the page as text; see `write`."""
    import jinja2

    here = Path(__file__).resolve().parent
    ranked = chosen_on or comparison
    best = next(one for one in comparison.results if one.combination == ranked.results[0].combination)
    decisions = evaluator.decide(best.combination)
    pairs = report_tables.pair_scores(evaluator, comparison)
    everything = list({one.combination: one for one in (*ranked.results, ranked.baseline, *ranked.rivals)}.values())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([here, here.parent / "common"]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(report_tables.FILTERS)
    return environment.get_template("report.html").render(
        title=title,
        seed=seed,
        evaluator=evaluator,
        final=comparison,
        ranked=ranked,
        chosen_on=chosen_on,
        best=best,
        headline=report_tables.headline(best, ranked, comparison.baseline, validated=chosen_on is not None),
        rival=report_tables.rival_words(ranked),
        remarks=remarks(evaluator),
        decision=DECISION[evaluator.mode],
        split=next(iter(evaluator.queries.values())).split or "query",
        n_crops=len(np.unique(decisions.crop)),
        matrix=report_tables.matrix(evaluator, pairs),
        rows=report_tables.ladder(ranked.results[:RANKED], ranked.baseline),
        test_rows=report_tables.ladder(comparison.results, comparison.baseline),
        front=report_charts.pareto_points(everything),
        costs={name: report_charts.cost_chart(everything, width) for name, width in report_tables.WIDTHS.items()},
        padding=report_tables.padding(evaluator, pairs, best),
        confusion=report_tables.confusion(evaluator, decisions),
        flips=flip_content(evaluator, comparison, ranked, best, seed),
        models=sorted({str(one.meta["model"]) for one in evaluator.queries.values() if one.meta.get("model")}),
        n_ranked=RANKED,
        few=intervals.FEW_IMAGES,
        level=report_tables.LEVEL,
    )


@dataclass(frozen=True)
class FlipContent:
    """Flips of `now` against `before`: totals by name, the classes (name, rescued, broken) that flip most, and cards."""

    before: Combination
    now: Combination
    change: flips.Flips
    totals: dict[str, int]
    classes: list[tuple[str, int, int]]
    n_classes: int
    cards: list[report_cards.Card]


def flip_content(
    evaluator: Evaluator, final: Comparison, ranked: Comparison, best: Result, seed: int
) -> FlipContent | None:
    """Return the flips of the best combination; where that is the baseline, of the next with any. None if there is no other.

    (A stack that keeps the baseline's view and adds one can split crops, but not flip them.)
    """
    before = final.baseline.combination
    others = [best.combination] if best.combination != before else [one.combination for one in ranked.results]
    others = [one for one in others if one != before and all(q in evaluator.queries for q in one.query_ids)][:TRIED]
    if not others:
        return None
    changes = [(one, flips.compare(evaluator, before, one, seed=seed)) for one in others]
    now, change = next((one for one in changes if one[1].rescued.any() or one[1].broken.any()), changes[0])
    totals = {name: int((change.flip == code).sum()) for code, name in enumerate(flips.FLIPS)}
    flipped = change.rescued + change.broken
    most = np.argsort(-flipped, kind="stable")[: min(report_tables.CLASSES, int((flipped > 0).sum()))]
    return FlipContent(
        before=before,
        now=now,
        change=change,
        totals=totals,
        classes=[(str(evaluator.classes[at]), int(change.rescued[at]), int(change.broken[at])) for at in most],
        n_classes=int((flipped > 0).sum()),
        cards=report_cards.cards(evaluator, before, now, change),
    )
