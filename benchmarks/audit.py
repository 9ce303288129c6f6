#!/usr/bin/env python3
"""How often the statistics are right: coverage, false findings, power and bias on simulated studies, as tables in Markdown.

python benchmarks/audit.py                          # all of it, about half an hour on one core
python benchmarks/audit.py accuracy difference      # some of it
python benchmarks/audit.py --studies 200            # sooner, and rougher

Old: what this project did before. New: what it does now. Plain: what is done elsewhere. A share of 0.95 seen in 1,000 studies
has a standard error of 0.007; the least of many shares lies below the truth by chance alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
import plain_statistics as plain
from scipy.optimize import brentq
from scipy.special import expit, ndtri

from uncertainty import comparisons, intervals, references, winner

NORMAL = ndtri((np.arange(2000) + 0.5) / 2000)
ALPHA = 0.05
LOG_SIZE = {
    "log-normal": (np.log(10) - 0.5, 1.0),
    "few large": (np.log(5) + 0.1 * np.log(10), 0.3 * np.log(10)),
}  # mean, deviation


def sizes(rng: np.random.Generator, kind: str, shape: tuple[int, int], mean: int = 10) -> np.ndarray:
    """Return crops a photo: all equal, log-normal, 50 in one photo of ten and 5 in the others, or one photo with half of all."""
    if kind == "log-normal":
        return np.maximum(1, np.round(rng.lognormal(np.log(mean) - 0.5, 1.0, shape)))
    if kind == "few large":
        return np.where(rng.random(shape) < 0.1, 50.0, 5.0)
    size = np.full(shape, float(mean))
    if kind == "one dominant":
        size[:, 0] = (shape[1] - 1) * mean
    return size


def logistic_normal(p: float, correlation: float) -> tuple[float, float]:
    """Return (mean, deviation) of a normal logit whose probability has the mean p and the variance correlation * p * (1 - p)."""

    def centre(deviation: float) -> float:
        return brentq(lambda one: expit(one + deviation * NORMAL).mean() - p, -200, 200)

    def surplus(deviation: float) -> float:
        return (expit(centre(deviation) + deviation * NORMAL) ** 2).mean() - p**2 - correlation * p * (1 - p)

    deviation = brentq(surplus, 1e-3, 30, xtol=1e-6)
    return centre(deviation), deviation


def counts(rng: np.random.Generator, size: np.ndarray, p: float, correlation: float, model: str = "beta") -> np.ndarray:
    """Return how many crops of each photo are right, correlated within the photo."""
    if p in (0, 1) or not correlation:
        return rng.binomial(size.astype(int), p).astype(float)
    if model == "beta":
        chance = rng.beta(p * (1 / correlation - 1), (1 - p) * (1 / correlation - 1), size.shape)
    else:
        centre, deviation = logistic_normal(p, correlation)
        chance = expit(centre + deviation * rng.normal(size=size.shape))
    return rng.binomial(size.astype(int), chance).astype(float)


def covered(limits: tuple[np.ndarray, np.ndarray], truth: float) -> dict[str, float]:
    low, high = limits
    return {"coverage": float(((low <= truth) & (truth <= high)).mean()), "width": float((high - low).mean())}


def accuracy(studies: int) -> None:
    """Intervals of an accuracy."""
    methods = {
        "new": intervals.accuracy_intervals,
        "without trend": plain.untrended,
        "old": plain.former_accuracy,
        "Wilson": plain.wilson,
        "clustered t": plain.clustered_t,
    }
    rows = []
    for kind, n, p, correlation in _grid(
        ("equal", "log-normal", "one dominant"), (5, 10, 20, 40, 100), (0.5, 0.8, 0.95, 0.99), (0, 0.1, 0.3, 0.6)
    ):
        for model in ("beta", "logistic") if correlation else ("beta",):
            rng = np.random.default_rng([len(kind), n, int(100 * p), int(10 * correlation), len(model)])
            size = sizes(rng, kind, (studies, n))
            correct = counts(rng, size, p, correlation, model)
            cell = {"sizes": kind, "photos": n, "accuracy": p, "correlation": correlation, "model": model}
            rows += [cell | {"method": name} | covered(method(correct, size), p) for name, method in methods.items()]
    table = pd.DataFrame(rows)
    many = table[table.photos >= 20]
    show("Accuracy intervals, 20, 40 and 100 photos", _summary(many, ["sizes", "method"]))
    show("Accuracy intervals, 5 and 10 photos", _summary(table[table.photos < 20], ["sizes", "method"]))
    new = many[many.method == "new"]
    show(
        "New, least coverage over accuracies and models",
        new.pivot_table(index=["sizes", "correlation"], columns="photos", values="coverage", aggfunc="min"),
    )
    both = table[(table.correlation == 0) & table.method.isin(["new", "old"]) & (table.sizes == "equal")]
    show(
        "Width where crops are independent, equal sizes",
        both.pivot_table(index=["accuracy", "method"], columns="photos", values="width"),
    )


def crowded_chance(
    rng: np.random.Generator, size: np.ndarray, p: float, correlation: float, strength: float, kind: str = "log-normal"
) -> np.ndarray:
    """Return each photo's chance: its logit correlates by -strength with the logarithm of its size."""
    centre, deviation = logistic_normal(p, correlation)
    mean, spread = LOG_SIZE[kind]
    luck = np.sqrt(1 - strength**2) * rng.normal(size=size.shape) - strength * (np.log(size) - mean) / spread
    return expit(centre + deviation * luck)


def crowded(studies: int) -> None:
    """Intervals of an accuracy where photos with more crops are harder: a photo's logit falls with the logarithm of its size."""
    methods = {
        "new": intervals.accuracy_intervals,
        "without trend": plain.untrended,
        "jackknife": partial(plain.untrended, leverage=2),
        "Kish's freedom": partial(plain.untrended, freedom="Kish"),
        "Satterthwaite's freedom": partial(plain.untrended, freedom="Satterthwaite"),
        "bootstrap-t": plain.bootstrap_t,
        "clustered t": plain.clustered_t,
        "old": plain.former_accuracy,
    }
    rows = []
    for kind, strength, n, p, correlation in _grid(
        ("equal", *LOG_SIZE), (0, 0.3, 0.7), (20, 40, 100), (0.5, 0.8, 0.95, 0.99), (0.1, 0.3, 0.6)
    ):
        if kind == "equal" and strength:
            continue
        truth, correct, size = crowded_study(studies, n, p, correlation, strength, kind)
        cell = {"correlation with size": strength, "sizes": kind, "accuracy": p, "correlation": correlation}
        rows += [cell | {"method": name} | covered(method(correct, size), truth) for name, method in methods.items()]
    table = pd.DataFrame(rows)
    usual = (table.accuracy < 0.99) & (table.correlation < 0.6)
    by = ["sizes", "correlation with size", "method"]
    show("Accuracy intervals where crowded photos are harder", _summary(table[usual], by))
    show("The same, correlation within a photo 0.6 or accuracy 0.99", _summary(table[~usual], by))


def crowded_study(
    studies: int, n: int, p: float, correlation: float, strength: float, kind: str
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the true accuracy over crops, and the photos' right crops and sizes, each (studies, n)."""
    rng = np.random.default_rng([n, int(100 * p), int(10 * correlation), int(10 * strength)])
    about = (p, correlation, strength, kind)
    if kind == "equal":
        size = sizes(rng, kind, (studies, n))
        return p, counts(rng, size, p, correlation, "logistic"), size
    long = sizes(rng, kind, (1, 300_000))
    truth = float((long * crowded_chance(rng, long, *about)).sum() / long.sum())
    size = sizes(rng, kind, (studies, n))
    return truth, rng.binomial(size.astype(int), crowded_chance(rng, size, *about)).astype(float), size


def crowded_flips(
    rng: np.random.Generator, size: np.ndarray, rescued: float, broken: float, correlation: float, strength: float
) -> np.ndarray:
    """Return crops rescued less crops broken of each photo; both shares rise with its size."""
    gain, loss = (
        crowded_chance(rng, size, share, correlation, -strength) if share else np.zeros(size.shape)
        for share in (rescued, broken)
    )
    gained = rng.binomial(size.astype(int), gain)
    return gained - rng.binomial(size.astype(int) - gained, loss).astype(float)


def crowded_difference(studies: int) -> None:
    """Intervals of a difference where crops of crowded photos are rescued, and broken, more often."""
    rows = []
    for strength, n, (rescued, broken), correlation in _grid(
        (0, 0.7), (20, 40, 100), ((0.02, 0), (0.05, 0.03), (0.1, 0.08), (0.2, 0.02)), (0.1, 0.3)
    ):
        rng = np.random.default_rng([n, int(1000 * rescued), int(1000 * broken), int(10 * correlation)])

        long, size = (sizes(rng, "log-normal", shape) for shape in ((1, 300_000), (max(20, studies // 4), n)))
        truth = float(crowded_flips(rng, long, rescued, broken, correlation, strength).sum() / long.sum())
        change = crowded_flips(rng, size, rescued, broken, correlation, strength)
        for method, trend in (("new", intervals.size_trend), ("without trend", lambda correct, size: np.zeros(1))):
            with mock.patch.object(intervals, "size_trend", trend):
                limits = [intervals.difference_intervals(c[None], s) for c, s in zip(change, size, strict=True)]
            low, high = np.array(limits)[..., 0].T
            cell = {"correlation with size": strength, "rescued": rescued, "broken": broken, "method": method}
            rows.append(cell | covered((low, high), truth))
    show(
        "Difference intervals where flips are more often in crowded photos",
        _summary(pd.DataFrame(rows), ["correlation with size", "rescued", "broken", "method"]),
    )


def difference(studies: int) -> None:
    """Intervals of a difference: shares of crops rescued and broken, each correlated within a photo."""
    methods = {
        "new": lambda d, size: intervals.difference_intervals(d, size[0]),
        "old": plain.former_difference,
        "clustered t": plain.clustered_t,
    }
    rows = []
    flips = ((0, 0), (0.005, 0.005), (0.01, 0), (0.02, 0), (0.02, 0.02), (0.05, 0), (0.05, 0.03), (0.1, 0.08))
    for (rescued, broken), correlation, n in _grid(flips, (0, 0.1, 0.3, 0.6), (10, 20, 40, 60, 150)):
        rng = np.random.default_rng([int(1000 * rescued), int(1000 * broken), int(10 * correlation), n])
        size = sizes(rng, "equal", (studies, n))
        gained = counts(rng, size, rescued, correlation)
        change = gained - np.minimum(counts(rng, size, broken, correlation), size - gained)
        truth = rescued - broken
        if broken and rescued:  # crops that both sides claim are rescued: the share broken is a little less
            long = np.full((1, 200_000), 10.0)
            gain = counts(rng, long, rescued, correlation)
            truth = float((gain - np.minimum(counts(rng, long, broken, correlation), long - gain)).sum() / long.sum())
        cell = {"rescued": rescued, "broken": broken, "correlation": correlation, "photos": n}
        rows += [cell | {"method": name} | covered(method(change, size), truth) for name, method in methods.items()]
    table = pd.DataFrame(rows)
    show(
        "Difference intervals, 20 photos and more", _summary(table[table.photos >= 20], ["rescued", "broken", "method"])
    )
    show(
        "Width, mean over correlations",
        table[table.method != "clustered t"].pivot_table(
            index=["rescued", "broken", "method"], columns="photos", values="width"
        ),
    )


def packed(studies: int) -> None:
    """False findings where one side's errors are packed into few photos and the other's are scattered."""
    rows = []
    for p, correlation, n in _grid((0.95, 0.8), (0.3, 0.6, 1.0), (10, 20, 40, 60, 100)):
        rng = np.random.default_rng([int(100 * p), int(10 * correlation), n])
        size = sizes(rng, "equal", (studies, n))
        side = counts(rng, size, p, correlation) if correlation < 1 else size * (rng.random(size.shape) < p)
        other = counts(rng, size, p, 0)
        old = [comparisons.sign_flip_p(one, flips=999, seed=number) for number, one in enumerate(side - other)]
        new = [
            comparisons.paired_comparison((a - b)[None], size[0], baseline=b, flips=999, seed=number).p[0]
            for number, (a, b) in enumerate(zip(side, other, strict=True))
        ]
        cell = {"accuracy": p, "correlation": correlation, "photos": n}
        tests = (("old, sign flips", old), ("new, and the interval", new))
        rows += [cell | {"test": name, "errors": np.mean(np.array(found) <= ALPHA)} for name, found in tests]
    show(
        "False findings at 5 %, errors packed against scattered",
        pd.DataFrame(rows).pivot_table(index=["accuracy", "correlation", "test"], columns="photos", values="errors"),
    )


def latent_study(rng: np.random.Generator, n: int, goals: np.ndarray, own: float) -> tuple[np.ndarray, np.ndarray]:
    """Return totals (n_combination, n_photo) and sizes: combinations with the accuracies `goals` that share most of what decides.

    A crop is right when its latent score is below a quantile: photo, crop, and the combination's `own` part of either.
    """
    size = np.maximum(1, np.round(rng.lognormal(np.log(10) - 0.18, 0.6, n))).astype(int)
    image = np.repeat(np.arange(n), size)
    parts = [
        np.sqrt(1 - own) * rng.normal(size=m) + np.sqrt(own) * rng.normal(size=(len(goals), m)) for m in (n, len(image))
    ]
    score = np.sqrt(0.2) * parts[0][:, image] + np.sqrt(0.8) * parts[1]
    right = (score < ndtri(goals)[:, None]).astype(float)
    return np.add.reduceat(right, np.r_[0, np.cumsum(size)[:-1]], axis=1), size.astype(float)


def power(studies: int) -> None:
    """Row 0 is the pair named beforehand; rows 0 to 24 are the single pairs; row 25 has the gain; the others are equal or worse."""
    rows = []
    for scene, n, gain in _grid(("others equal", "others worse"), (20, 60, 150), (0.0, 0.02, 0.04)):
        goals = np.full(225, 0.8) if scene == "others equal" else 0.8 - np.linspace(0.02, 0.5, 225)
        goals[0], goals[25] = 0.8, 0.8 + gain
        found: dict[str, list[bool]] = {}
        for number in range(max(20, studies // 10)):
            rng = np.random.default_rng([number, n, int(100 * gain), len(scene)])
            right, _ = latent_study(rng, n, goals, 0.03)
            difference, best = right - right[0], int(right[:25].sum(axis=1).argmax())
            signs = rng.choice([-1.0, 1.0], (999, n))
            tests = {
                "old, named": plain.single_step_p(difference, signs)[25] * _up(difference[25]),
                "step-down, named": comparisons.corrected_p(difference, flips=999)[25] * _up(difference[25]),
                "screened, named": comparisons.one_sided_p(difference, flips=999)[25],
                "old, best pair chosen": plain.single_step_p(right - right[best], signs)[25]
                * _up(right[25] - right[best]),
                "screened, best pair chosen": comparisons.beats_best_p(right, range(25), flips=999)[25],
            }
            if not gain:  # any finding is false
                tests |= {
                    "old, named": plain.single_step_p(difference, signs)[difference.sum(axis=1) >= 0].min(),
                    "step-down, named": comparisons.corrected_p(difference, flips=999)[
                        difference.sum(axis=1) >= 0
                    ].min(),
                    "screened, named": comparisons.one_sided_p(difference, flips=999).min(),
                    "screened, best pair chosen": comparisons.beats_best_p(right, range(25), flips=999).min(),
                }
                tests.pop("old, best pair chosen")
            for name, p in tests.items():
                found.setdefault(name, []).append(p <= ALPHA)
        cell = {"others": scene.split()[1], "gain": gain, "photos": n}
        rows += [cell | {"test": name, "found": np.mean(one)} for name, one in found.items()]
    table = pd.DataFrame(rows)
    table["found"] = table.found.astype(float)
    show(
        "225 combinations: false findings of a better one (gain 0), and power",
        table.pivot_table(index=["others", "gain", "test"], columns="photos", values="found"),
    )


def _up(difference: np.ndarray) -> float:
    """1 for a combination that looks better, else what keeps p above every level."""
    return 1.0 if difference.sum() > 0 else np.inf


def winners(studies: int) -> None:
    """The best of 49 or 225 combinations, scored on the photos it was chosen on."""
    rows = []
    for n, m, goal in _grid((10, 20, 60), (49, 225), (0.8, 0.95)):
        optimism, bias, held, held_before, returns = [], [], [], [], []
        for number in range(max(20, studies // 5)):
            rng = np.random.default_rng([number, n, m, int(100 * goal)])
            right, size = latent_study(rng, n, np.full(m, goal), 0.1)
            result = winner.corrected_winner(right, size, resamples=300, seed=number)
            plainly = intervals.accuracy_interval(right[result.row], size)
            optimism.append(plainly.accuracy - goal)
            bias.append(result.accuracy - goal)
            held.append(result.low <= goal <= result.high)
            held_before.append(plainly.low <= goal <= plainly.high)
            returns.append(result.returns)
        rows.append(
            {
                "photos": n,
                "combinations": m,
                "accuracy": goal,
                "too high by": np.mean(optimism),
                "corrected, too high by": np.mean(bias),
            }
            | {
                "interval covers": np.mean(held_before),
                "corrected covers": np.mean(held),
                "same winner": np.mean(returns),
            }
        )
    show(
        "The winner's accuracy, all combinations equal",
        pd.DataFrame(rows).set_index(["photos", "combinations", "accuracy"]),
    )


def new_references(studies: int) -> None:
    """Twelve classes, 1-nearest neighbour; the truth is the mean accuracy over many references and queries."""
    rows = []
    for m in (2, 4, 8, 16):

        def draw(rng: np.random.Generator, photos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            label = np.arange(photos * 12) % 12
            photo = np.arange(photos * 12)
            centres = np.random.default_rng(0).normal(size=(12, 16))
            rows_of = np.repeat(np.arange(len(label)), 3)
            vectors = centres[label] + 1.3 * rng.normal(size=(len(label), 16))
            return (vectors[rows_of] + 0.8 * rng.normal(size=(len(rows_of), 16))), label[rows_of], photo[rows_of]

        def totals(reference: tuple, query: tuple, kept: np.ndarray | slice = slice(None)) -> np.ndarray:
            vectors, label, _ = (one[kept] for one in reference)
            distance = (vectors**2).sum(axis=1) - 2 * query[0] @ vectors.T
            return np.bincount(query[2], label[distance.argmin(axis=1)] == query[1]).astype(float)

        hits = [
            totals(draw(rng, m), draw(rng, 20)).sum() / 720 for rng in map(np.random.default_rng, range(10_000, 10_300))
        ]
        truth, plainly, varied = float(np.mean(hits)), [], []
        for number in range(max(20, studies // 4)):
            rng = np.random.default_rng(number)
            reference, query = draw(rng, m), draw(rng, 5)
            right, size = totals(reference, query), np.bincount(query[2]).astype(float)
            halved = np.stack(
                [
                    [totals(reference, query, half), totals(reference, query, ~half)]
                    for half in references.halves(reference[2], reference[1], 10, number)
                ]
            )
            interval = intervals.accuracy_interval(right, size)
            wide, _ = references.new_reference_interval(right, size, halved)
            plainly.append((interval.low, interval.high))
            varied.append((wide.low, wide.high))
        for name, found in (("given references", plainly), ("new references", varied)):
            low, high = np.array(found).T
            rows.append({"photos a class": m, "accuracy": truth, "interval for": name, **covered((low, high), truth)})
    show("New references and new queries: coverage", pd.DataFrame(rows).set_index(["photos a class", "interval for"]))


def _grid(*axes: tuple) -> Iterator[tuple]:
    import itertools

    return itertools.product(*axes)


def _summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    groups = table.groupby(by, sort=False)
    coverage = groups["coverage"]
    columns = {
        "mean": coverage.mean(),
        "least": coverage.min(),
        "below 0.93": coverage.apply(lambda one: (one < 0.93).mean()),
    }
    return pd.DataFrame(
        columns | {"above 0.99": coverage.apply(lambda one: (one > 0.99).mean()), "width": groups["width"].mean()}
    )


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    flat = table.reset_index()
    print(f"\n{title}\n")
    print("| " + " | ".join(map(str, flat.columns)) + " |\n|" + "---|" * len(flat.columns))
    for row in flat.itertuples(index=False):
        print("| " + " | ".join(f"{one:.3f}" if isinstance(one, float) else str(one) for one in row) + " |")
    sys.stdout.flush()


PARTS: dict[str, Callable[[int], None]] = {
    "accuracy": accuracy,
    "crowded": crowded,
    "crowded_difference": crowded_difference,
    "difference": difference,
    "packed": packed,
    "power": power,
    "winner": winners,
    "references": new_references,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies a cell of the intervals; less of the rest (1000)"
    )
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(f"{date.today()}, {args.studies} studies a cell")
    for name in args.parts or PARTS:
        PARTS[name](args.studies)


if __name__ == "__main__":
    main()
