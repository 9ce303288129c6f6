"""The verdict in words: which padding, and whether combining sets helps. The same text on the terminal, in files, in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from classifiers.recipes import NEAREST, Recipe
from combinations.comparison import Comparison, compare, compare_all, score_once
from combinations.evidence import Answer
from combinations.paddings import PairedRow, are_paddings, classifier_rows
from combinations.search import enumerate_combinations
from common.messages import count, wrap
from conclusions.effects import Effect, effects
from conclusions.models import ModelRow, model_rows
from evaluation.codes import caution
from evaluation.evaluator import Evaluator, tally
from evaluation.learning import first_asked, with_classifiers
from evaluation.records import Combination, Decisions
from evaluation.references import NewReferences

FIRST = "the first pair"
APART = "Not known: no crop is in every query set, so that combinations cannot be compared."


@dataclass(frozen=True)
class Verdict:
    """Two questions and the sentence that answers each; a third where several classifiers were tried."""

    which: str
    combine: str
    padding: bool  # whether the IDs are paddings
    classifier: str = ""
    caution: str = ""  # why the numbers are not those of new photos

    @property
    def questions(self) -> list[tuple[str, str]]:
        """(question, answer): two, and what else was asked or must be said."""
        asked = [
            ("Which padding?" if self.padding else "Which pair of sets?", self.which),
            ("Combine sets?", self.combine),
        ]
        asked += [("Another classifier?", self.classifier)] if self.classifier else []
        return asked + ([("Trust it?", f"No: {self.caution}.")] if self.caution else [])

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def text(self, width: int | None = None) -> str:
        """Return the same with long lines broken, to `width` columns (default: see messages.wrap)."""
        hang = self._indent
        return "\n".join(wrap(line, hang, width=width) for line in self._lines)

    @property
    def _indent(self) -> int:
        return 1 + max(len(question) for question, _ in self.questions)

    @property
    def _lines(self) -> list[str]:
        return [f"{question:{self._indent}}{answer}" for question, answer in self.questions]


@dataclass(frozen=True)
class Findings:
    """What a run found: all that is printed, written to results.txt and drawn in the report, but decisions.

    ranked: the search. final: what is reported; the same, or what was chosen on another split, scored once on `scored_on`.
    chosen_on: that other split. verdict: None where no question was asked. models: one row a model, where there are several.
    classifiers: one row a classifier, where there are several. choices: how each was chosen, a sentence each. new_references:
    what was asked of new references. effects: of paddings, context and resolution apart, where input sizes tell them apart.
    """

    title: str
    ranked: Comparison
    final: Comparison
    verdict: Verdict | None
    models: Sequence[ModelRow]
    scored_on: str
    chosen_on: str | None = None
    classifiers: Sequence[PairedRow] = ()
    choices: Sequence[str] = ()
    new_references: Mapping[Combination, NewReferences | None] = field(default_factory=dict)
    effects: Sequence[Effect] = ()


def verdict(
    ranked: Comparison,
    *,
    padding: bool,
    chosen_on: str | None = None,
    choices: Sequence[str] = (),
    tested: str = "",
    caution: str = "",
) -> Verdict:
    """Return the verdict of a search.

    padding: the IDs are paddings. chosen_on: the split that was ranked on, to be named. choices: how classifiers were chosen.
    tested: what the best classifier gains where it was not chosen, see `on_test`.
    caution: why the numbers are not those of new photos.
    """
    name = "the baseline" if ranked.named else "the least padding" if padding else FIRST
    on = f" on {chosen_on}" if chosen_on else ""
    classifier = _classifier(ranked, on) + (f" {tested}" if tested and chosen_on else "")
    if ranked.evidence.classifiers is None and choices:
        classifier = "No: none did better than nearest neighbours where classifiers were chosen."
    return Verdict(_which(ranked, name, on), _combine(ranked, on), padding, classifier, caution)


def on_test(rows: Sequence[PairedRow], split: str) -> str:
    """Return what the last classifier of a pair gains on the queries of `split`, as a sentence; "" where there is none."""
    if len(rows) < 2 or (best := max(rows[1:], key=lambda row: row.accuracy)).difference != best.difference:
        return ""
    points = [f"{100 * value:+.1f}" for value in (best.difference, best.difference_low, best.difference_high)]
    first = rows[0].combination.classifier
    return (
        f"On {split} {best.combination} gains {points[0]} points on {first} (95% interval {points[1]} to {points[2]})."
    )


def _which(ranked: Comparison, name: str, on: str) -> str:
    answer = ranked.evidence.pairs
    if answer is None:
        return _only(ranked, on)
    rival, best = f"{answer.rival}, {name}", answer.best
    if ranked.evidence.classifiers and answer.rival.is_plain:  # tables beside it may be of another classifier
        on = f" by nearest neighbours{on}"
    if answer.is_better:
        return f"Use {best}: {_points(answer)} points better than {rival}{on} ({_interval(answer)})."
    if answer.difference != answer.difference:
        return "Not known: no crop is in every query set, so that pairs cannot be compared."
    if answer.difference > 0 and name == FIRST:  # nothing speaks for the first pair but its place
        lead = f"{best} scores {_points(answer)} points higher than {rival}{on}, which may be chance"
        return f"None is shown to be best: {lead} ({_interval(answer)})."
    if answer.difference > 0:
        return f"Use {rival}: {best} scores {_points(answer)} points higher{on}, which may be chance ({_interval(answer)})."
    return f"Use {rival}: no other pair scores higher{on}; {_limit(answer, 'none')}."


def _only(ranked: Comparison, on: str) -> str:
    """Return what can be said where a single pair of sets was given; its classifiers have a sentence of their own."""
    pair = ranked.baseline
    if ranked.n_compared:
        return f"Use {replace(pair.combination, classifier=NEAREST)}, the only pair of sets."
    return (
        f"Only {pair.combination} was given: accuracy {pair.score:.4f} over {count(pair.n_queries, 'decision')}{on} "
        f"(95% interval {pair.low:.4f} to {pair.high:.4f}), and nothing to compare it with."
    )


def _combine(ranked: Comparison, on: str) -> str:
    answer = ranked.evidence.combinations
    if answer is None:
        pairs = [one.combination for one in ranked.results]
        if min(len({pair.reference_ids for pair in pairs}), len({pair.query_ids for pair in pairs})) < 2:
            return "Not tried: it takes two reference sets and two query sets."
        if (among_pairs := ranked.evidence.pairs) and among_pairs.difference != among_pairs.difference:
            return APART
        return "Not tried; greedy_combo_eval.py --combination_size 2 tries two sets a side."
    best, rival = answer.best, f"{answer.rival}, the best single pair"
    if answer.is_better:
        return f"Yes, {best}: {_points(answer)} points better than {rival}{on} ({_interval(answer)})."
    if answer.difference != answer.difference:
        return APART
    if answer.difference > 0:
        lead = f"{best} scores {_points(answer)} points higher than {rival}{on}, which may be chance"
        return f"No: {lead}; {_limit(answer, 'no combination')}."
    return f"No: none scores higher than {rival}{on}; {_limit(answer, 'no combination')}."


def _classifier(ranked: Comparison, on: str) -> str:
    answer = ranked.evidence.classifiers
    if answer is None:
        return ""
    best, rival = answer.best, f"{answer.rival}, the best single pair of nearest neighbours"
    if answer.is_better:
        return f"Yes, {best}: {_points(answer)} points better than {rival}{on} ({_interval(answer)})."
    if answer.difference != answer.difference:
        return "Not known: no crop is in every query set, so that classifiers cannot be compared."
    if answer.difference > 0:
        lead = f"{best} scores {_points(answer)} points higher than {rival}{on}, which may be chance"
        return f"Not shown: {lead} ({_interval(answer)})."
    return f"No: none scores higher than {rival}{on}; {_limit(answer, 'no classifier')}."


def _points(answer: Answer) -> str:
    return f"{100 * answer.difference:.1f}"


def _interval(answer: Answer) -> str:
    return f"95% interval {100 * answer.low:+.1f} to {100 * answer.high:+.1f}"


def _limit(answer: Answer, which: str) -> str:
    if answer.most_gained <= 0:
        return f"{which} is better (95% sure)"
    return f"{which} is better by more than {100 * answer.most_gained:.1f} points (95% sure)"


def outlook(ranked: Comparison) -> str:
    """Return what these photos can show, as one sentence; '' where nothing was compared."""
    evidence = ranked.evidence
    if evidence.photos_needed != evidence.photos_needed:
        return ""
    n_photo = count(ranked.baseline.n_images, ranked.unit)
    return f"Scored on {n_photo}; to find a gain of 2 points takes about {evidence.photos_needed:,.0f} (power 80%)."


def beside(evaluator: Evaluator, start: Combination, recipes: Sequence[Recipe], seed: int) -> dict[str, Any]:
    """Return fields of Findings by name, which stand beside a ranking: models, classifiers of one pair, effects of paddings."""
    first = first_asked(recipes)
    return {
        "models": model_rows(evaluator, first, seed=seed),
        "classifiers": classifier_rows(evaluator, start, recipes, seed=seed),
        "effects": effects(evaluator, first, seed=seed),
    }


def of_pairs(
    evaluator: Evaluator,
    title: str,
    split: str,
    baseline: str | None,
    start: Combination,
    learnt: tuple[Sequence[Recipe], Sequence[str]],
    seed: int,
) -> Findings:
    """Return the findings about every pair of one reference set and one query set, once for each recipe.

    `start`: the pair whose classifiers stand side by side. `learnt`: the recipes, and how they were chosen.
    """
    coded = evaluator.coded
    pairs = enumerate_combinations(list(coded.references), list(coded.queries), 1, 1, "crossed")
    asked = with_classifiers([pair for pair in pairs if evaluator.valid(pair)], learnt[0])
    tallies = dict(evaluator.tallies(asked))
    scored = {combination: tallies[index] for index, combination in enumerate(asked)}
    compared = compare_all(evaluator, scored, baseline, seed)
    return Findings(
        title,
        compared,
        compared,
        verdict(compared, padding=are_paddings(coded), choices=learnt[1], caution=caution(coded, evaluator.rule)),
        scored_on=split,
        choices=learnt[1],
        **beside(evaluator, start, learnt[0], seed),
    )


def of_search(
    test: Evaluator,
    ranked: Comparison,
    start: Combination,
    learnt: tuple[Sequence[Recipe], Sequence[str]],
    title: str,
    splits: tuple[str, str | None],
    seed: int,
) -> Findings:
    """Return the findings of a search: `ranked`, and where it was on another split, what was chosen scored once on `test`.

    `start` and `learnt` as in `of_pairs`. `splits`: the one that is scored on, and the other one that was chosen on, if any.
    """
    scored_on, chosen_on = splits
    more = beside(test, start, learnt[0], seed)
    tested = on_test(more["classifiers"], scored_on)
    answers = verdict(
        ranked,
        padding=are_paddings(test.coded),
        chosen_on=chosen_on,
        choices=learnt[1],
        tested=tested,
        caution=caution(test.coded, test.rule),
    )
    return Findings(
        title,
        ranked,
        score_once(test, ranked, seed) if chosen_on else ranked,
        answers,
        scored_on=scored_on,
        chosen_on=chosen_on,
        choices=learnt[1],
        **more,
    )


def of_decisions(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    title: str,
    split: str,
    choices: Sequence[str],
    seed: int,
) -> Findings:
    """Return the findings about combinations that are decided, compared with the first of them; no question is asked."""
    scored = {
        combination: tally(evaluator.coded, decisions, combination.reference_ids)
        for combination, decisions in decided.items()
    }
    compared = compare(evaluator, scored, next(iter(scored)), named=True, seed=seed)
    return Findings(title, compared, compared, None, [], split, choices=choices)
