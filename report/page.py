"""The self-contained HTML page about a search over combinations: the numbers here, the looks in report.html and common/page.css."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from combinations import flips
from combinations.comparison import REPORTED, Comparison, Result
from combinations.evidence import LEVEL
from common import files
from conclusions.verdict import Findings
from evaluation.codes import remarks
from evaluation.evaluator import Evaluator
from evaluation.fusion import AVERAGE, DECISION, NAME
from evaluation.records import Combination, Decisions
from evaluation.references import Curve
from report import cards, charts, tables
from report.data_check import data_check
from report.learning_curve import learning_curve
from soundness.check import Soundness
from uncertainty import intervals

if TYPE_CHECKING:
    import jinja2

RANKED = 25  # rows of the ranking
HERE = Path(__file__).resolve().parent


def write(
    path: Path,
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    findings: Findings,
    *,
    checked: Soundness | None = None,
    curve: Curve | None = None,
    seed: int = 0,
) -> None:
    """Write the page of what a search found, scored by `evaluator`, to `path`, whole or not at all.

    `decided`: the decisions of what the page shows, see comparison.decide_reported. Where the combination was chosen on the
    queries it is scored on, the page says so. `checked`: whether the data are sound, and `curve`: accuracy by reference photos,
    where these were asked for.
    """
    files.write_text(path, page(evaluator, decided, findings, checked=checked, curve=curve, seed=seed))


def page(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    findings: Findings,
    *,
    checked: Soundness | None = None,
    curve: Curve | None = None,
    seed: int = 0,
) -> str:
    """Return the page as text; see `write`."""
    comparison, ranked = findings.final, findings.ranked
    coded, rule = evaluator.coded, evaluator.rule
    best = next(result for result in comparison.results if result.combination == ranked.results[0].combination)
    decisions = decided[best.combination]
    pairs = tables.pair_scores(evaluator, comparison)
    queries = coded.queries.values()
    return _template().render(
        title=findings.title or "-",
        seed=seed,
        rule=rule,
        final=comparison,
        ranked=ranked,
        chosen_on=findings.chosen_on,
        best=best,
        luckless=ranked.evidence.winner,
        verdict=findings.verdict,
        rival=tables.rival_words(ranked),
        remarks=remarks(coded, rule),
        choices=findings.choices,
        classifiers=tables.ladder(findings.classifiers) if findings.classifiers else None,
        decision=DECISION[rule.fusion],
        fusion=NAME[rule.fusion],
        average=AVERAGE,
        split=next(iter(queries)).split or "query",
        n_crops=len(np.unique(decisions.crop)),
        matrix=tables.matrix(coded, pairs),
        rows=tables.ladder(ranked.results[:RANKED], ranked.baseline),
        test_rows=tables.ladder(comparison.results, comparison.baseline),
        front=charts.pareto_points(ranked.results),
        costs={name: charts.cost_chart(ranked.results, width) for name, width in tables.WIDTHS.items()},
        padding=tables.padding(coded, pairs, best),
        confusion=tables.confusion(coded.classes, decisions),
        data_check=data_check(checked) if checked else None,
        learning_curve=learning_curve(curve, comparison.evidence.smallest_gain) if curve else None,
        smallest_gain=comparison.evidence.smallest_gain,
        flips=flip_content(evaluator, decided, comparison, ranked, best, seed),
        side_by_side=findings.models,
        effects=findings.effects,
        models=sorted({str(query.meta["model"]) for query in queries if query.meta.get("model")}),
        n_ranked=RANKED,
        few=intervals.FEW_IMAGES,
        level=LEVEL,
        unit=coded.units.noun(),
        group_by=coded.units.group_by,
    )


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, HERE.parent / "common"]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(tables.FILTERS)
    return environment.get_template("report.html")


@dataclass(frozen=True)
class FlipContent:
    """Flips of `now` against `before`: totals by name, the classes (name, rescued, broken) that flip most, and cards."""

    before: Combination
    now: Combination
    change: flips.Flips
    totals: dict[str, int]
    classes: list[tuple[str, int, int]]
    n_classes: int
    cards: list[cards.Card]


def flip_content(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    final: Comparison,
    ranked: Comparison,
    best: Result,
    seed: int,
) -> FlipContent | None:
    """Return the flips of the best combination; where that is the baseline, of the next with any. None if there is no other.

    (A stack that keeps the baseline's view and adds one can split crops, but not flip them.)
    """
    before, coded = final.baseline.combination, evaluator.coded
    others = [best.combination] if best.combination != before else [result.combination for result in ranked.results]
    others = [other for other in others if other != before and other in decided][:REPORTED]
    if not others:
        return None
    changes = [(other, flips.compare(coded, decided[before], decided[other], seed=seed)) for other in others]
    now, change = next((one for one in changes if one[1].rescued.any() or one[1].broken.any()), changes[0])
    totals = {name: int((change.flip == code).sum()) for code, name in enumerate(flips.FLIPS)}
    flipped = change.rescued + change.broken
    most = np.argsort(-flipped, kind="stable")[: min(tables.CLASSES, int((flipped > 0).sum()))]
    return FlipContent(
        before=before,
        now=now,
        change=change,
        totals=totals,
        classes=[(str(coded.classes[at]), int(change.rescued[at]), int(change.broken[at])) for at in most],
        n_classes=int((flipped > 0).sum()),
        cards=cards.cards(evaluator, decided, before, now, change),
    )
