"""The HTML report: its numbers are the comparison's, its pictures the crops', and Chromium shows it whole, asking for nothing."""

from __future__ import annotations

import base64
import dataclasses
import html
import itertools
import math
import re
import shutil

import cv2
import numpy as np
import pytest
from builders import make_evaluator, study, totals, unit

import greedy_combo_eval
from combinations import comparison, flips
from combinations.paddings import are_paddings
from combinations.search import enumerate_combinations
from common import embeddings
from conclusions.models import model_rows
from conclusions.verdict import Findings, verdict
from evaluation.records import Combination
from evaluation.references import CurvePoint, learning_curve
from report import cards, charts, tables
from report import page as pages
from report.learning_curve import curve_chart
from report.page import RANKED
from uncertainty import intervals

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
HOSTILE = "<script>alert('x')</script> & \"quotes\""


def pictured(sets, root, size=(150, 90)):
    """The sets with a picture per row of one colour each, different in every set; returns them and the colours by file."""
    colors, out = {}, []
    rng = np.random.default_rng(4)
    for one in sets:
        folder = root / f"{one.split}_{one.id}"
        folder.mkdir(parents=True)
        for name in one.crop_ids:
            color = rng.integers(20, 236, 3)
            colors[str(folder / f"{name}.png")] = color
            cv2.imwrite(str(folder / f"{name}.png"), np.full((*size, 3), color[::-1], np.uint8))
        paths = np.array([f"{name}.png" for name in one.crop_ids])
        meta = {**one.meta, "data_root": str(folder), "padding": one.id, "model": "m"}
        out.append(dataclasses.replace(one, paths=paths, meta=meta))
    return out, colors


def search(evaluator, high=2, baseline=None):
    asked = enumerate_combinations(list(evaluator.coded.references), list(evaluator.coded.queries), 1, high, "crossed")
    asked = [one for one in asked if evaluator.valid(one)]
    tallies = dict(evaluator.tallies(asked))
    scored = {one: tallies[at] for at, one in enumerate(asked)}
    return comparison.compare_all(evaluator, scored, baseline and str(baseline), 0)


def findings(evaluator, compared, ranked=None, title=""):
    chosen_on = "val" if ranked else None
    answers = verdict(ranked or compared, padding=are_paddings(evaluator.coded), chosen_on=chosen_on)
    return Findings(title, ranked or compared, compared, answers, model_rows(evaluator), "test", chosen_on)


def render(evaluator, compared, ranked=None, title="", **more):
    decided = comparison.decide_reported(evaluator, compared, ranked or compared)
    return pages.page(evaluator, decided, findings(evaluator, compared, ranked, title), **more)


def change_of(evaluator, before, now):
    return flips.compare(evaluator.coded, evaluator.decide(before), evaluator.decide(now))


def cards_of(evaluator, before, now, change):
    wanted = [before, now, *comparison.same_id_pairs(evaluator).values()]
    return cards.cards(evaluator, {one: evaluator.decide(one) for one in wanted}, before, now, change)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    (references, colors), (queries, more) = (
        pictured(study(seed, split=split, n_images=24), root) for seed, split in ((1, "train"), (5, "test"))
    )
    return references, queries, {**colors, **more}


@pytest.fixture(scope="module")
def evaluator(pictures):
    return make_evaluator(pictures[0], pictures[1])


@pytest.fixture(scope="module")
def compared(evaluator):
    return search(evaluator)


@pytest.fixture(scope="module")
def curve(evaluator):
    return learning_curve(evaluator, Combination(("0",), ("0",)), draws=10)


@pytest.fixture(scope="module")
def page(evaluator, compared, curve):
    return render(evaluator, compared, title="study", curve=curve)


def plain(markup: str) -> str:
    """The text that a reader sees or hears."""
    return re.sub(
        r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", markup, flags=re.S)))
    )


def section(page: str, name: str) -> str:
    return re.search(rf'<section class="card" id="{name}".*?</section>', page, re.S)[0]


def table(markup: str) -> list[list[str]]:
    """The body rows of the first table as texts of their cells."""
    body = re.search(r"<tbody>(.*?)</tbody>", markup, re.S)[1]
    rows = re.findall(r"<tr.*?</tr>", body, re.S)
    return [[plain(cell).strip() for cell in re.findall(r"<t[dh][ >].*?</t[dh]>", row, re.S)] for row in rows]


def test_the_ranking_says_what_the_comparison_says(page, compared):
    rows = table(section(page, "ranking"))
    assert len(rows) == RANKED < len(compared.results)
    for rank, (row, one) in enumerate(zip(rows, compared.results, strict=False), 1):
        assert row[0] == str(rank)
        assert row[2] == " + ".join(one.combination.query_ids)
        assert row[3] == f"{100 * one.score:.1f}%"
        assert row[5] == f"{100 * one.low:.1f} – {100 * one.high:.1f}"
        if one.combination == compared.baseline.combination:
            assert row[6] == "baseline"
            continue
        assert float(row[6].replace("−", "-")) == pytest.approx(100 * one.difference, abs=0.051)
        assert row[8] == ("< 0.001" if one.p < 0.001 else f"{one.p:.3f}")
        assert ("▼" in row[9] or "▲" in row[9]) == (one.p < 0.05)
        assert bool(row[10]) == one.pareto
    rest = len(compared.results) - RANKED
    assert f"and {rest} more combinations, down to {100 * compared.results[-1].score:.1f}%" in plain(
        section(page, "ranking")
    )


def test_a_difference_beyond_chance_is_marked_in_words_and_stars(evaluator, compared):
    results = [
        dataclasses.replace(compared.results[0], p=p, difference=d)
        for p, d in ((0.0004, 0.1), (0.03, -0.2), (0.06, 0.1))
    ]
    other = Combination(("20",), ("20",))
    changed = dataclasses.replace(
        compared, results=results, baseline=dataclasses.replace(results[0], combination=other)
    )
    marks = [row[9] for row in table(section(render(evaluator, changed, title=""), "ranking"))[:3]]
    assert marks == ["▲ better ***", "▼ worse *", ""]


def test_the_matrix_holds_every_pair_with_its_interval(page, evaluator):
    rows = table(section(page, "pairs"))
    assert [row[0] for row in rows] == list(evaluator.coded.references)
    best = 0.0
    for row, r in zip(rows, evaluator.coded.references, strict=True):
        for text, q in zip(row[1:], evaluator.coded.queries, strict=True):
            tally = totals(evaluator, Combination((r,), (q,)))
            interval = intervals.accuracy_interval(tally.image_right[1], tally.image_size)
            assert (
                text.split("★ ")[-1]
                == f"{100 * interval.accuracy:.1f} {100 * interval.low:.1f} – {100 * interval.high:.1f}"
            )
            best = max(best, interval.accuracy)
    starred = [text for row in rows for text in row[1:] if "★" in text]
    assert len(starred) == 1
    assert f"★ {100 * best:.1f} " in starred[0]


def test_pairs_that_the_comparison_does_not_hold_are_scored_for_the_matrix(evaluator, compared):
    bare = dataclasses.replace(compared, results=[compared.results[0]])
    whole, scored = tables.pair_scores(evaluator, compared), tables.pair_scores(evaluator, bare)
    assert len(whole) == len(scored) == 9
    for pair, one in whole.items():
        assert (scored[pair].score, scored[pair].low, scored[pair].high) == pytest.approx(
            (one.score, one.low, one.high), abs=1e-6
        )


def test_the_answer_comes_first_with_its_interval_and_its_caution(page, compared, evaluator):
    best, base = compared.results[0], compared.baseline
    top = plain(page[: page.index("<main>")])
    assert (
        str(verdict(compared, padding=True)).split()
        == top[top.index("Which padding?") : top.index("References of")].split()
    )
    assert f"{100 * best.low:.1f} – {100 * best.high:.1f}%" in top
    assert f"the best single pair, {base.combination}" in top
    assert f"corrected over {compared.n_compared} combinations" in top
    assert "Chosen on the data it is scored on" in top
    assert "24 photos 96 crops" in top
    assert "few photos" not in top
    few = dataclasses.replace(best, n_images=19)
    told = dataclasses.replace(compared, results=[few, *compared.results[1:]])
    assert "Few photos." in render(evaluator, told, title="")


def test_a_choice_on_validation_sets_is_told_and_ranked_apart(evaluator, compared, pictures):
    chooser = search(make_evaluator(pictures[0], study(2, split="val", n_images=21)))
    chosen = [chooser.results[0].combination, chooser.baseline.combination]
    final = comparison.score_once(evaluator, chooser, 0)
    made = render(evaluator, final, ranked=chooser, title="study")
    top = plain(made[: made.index("<main>")])
    assert "Chosen on validation sets, scored once" in top
    assert "Chosen on the data" not in top
    best = next(one for one in final.results if one.combination == chosen[0])
    assert f"{100 * best.score:.1f}%" in top
    ranking = section(made, "ranking")
    first, once = ranking[: ranking.index("Scored once")], ranking[ranking.index("Scored once") :]
    assert table(first)[0][3] == f"{100 * chooser.results[0].score:.1f}%"
    assert [row[3] for row in table(once)] == [f"{100 * one.score:.1f}%" for one in final.results]


def test_numbers_read_as_they_should():
    assert [tables.points(one) for one in (0.0144, -0.0212, 0.0004, -0.0004, math.nan)] == [
        "+1.4",
        "−2.1",
        "0.0",
        "0.0",
        "–",
    ]
    assert [tables.p_value(one) for one in (0.0001, 0.0449, 1.0, math.nan)] == ["< 0.001", "0.045", "1.000", "–"]
    assert [tables.stars(one) for one in (0.05, 0.049, 0.0099, 0.0009, math.nan)] == ["", "*", "**", "***", ""]
    assert tables.clip("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"


def test_confusion_counts_by_hand(evaluator, compared):
    decisions = evaluator.decide(compared.results[0].combination)
    actual = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    given = np.array([0, 1, 1, 1, -1, 0, 1, 1, 3, 3])
    decisions = dataclasses.replace(decisions, label=actual, voted=given)
    found = tables.confusion(evaluator.coded.classes, decisions)
    # wrong: class 2 four times, class 0 twice, class 1 once; columns: the same three classes, others, none
    assert found.rows == [("c2", 4, [0, 1, 2, 1, 0]), ("c0", 2, [0, 1, 2, 0, 0]), ("c1", 1, [0, 0, 1, 0, 1])]
    assert found.columns == ["other", "none"]
    assert found.mixups[:2] == [("c0", "c1", 2), ("c2", "c1", 2)]
    assert (found.n_wrong_classes, found.n_class) == (3, 4)


def flipping(evaluator):
    """The two combinations that differ in most crops, so that there are cards of both kinds."""
    pairs = [Combination((r,), (q,)) for r in evaluator.coded.references for q in evaluator.coded.queries]
    return max(
        ((a, b, change_of(evaluator, a, b)) for a in pairs[:3] for b in pairs[3:]),
        key=lambda one: min(one[2].rescued.sum(), one[2].broken.sum()),
    )


def test_cards_show_the_flips_their_neighbours_and_the_right_pictures(evaluator, pictures):
    references, queries, colors = pictures
    before, now, change = flipping(evaluator)
    made = cards_of(evaluator, before, now, change)
    assert [card.kind for card in made] == ["rescued"] * 6 + ["broken"] * 6
    kind_of = dict(zip(change.crop, np.array(flips.FLIPS)[change.flip], strict=True))
    names = [name.split("/")[-1] for name in evaluator.coded.crops]
    for card in made:
        assert kind_of[names.index(card.crop)] == card.kind
        for combination, rows in ((before, card.before), (now, card.now)):
            assert len(rows) == 1
            reference = next(one for one in references if one.id == combination.reference_ids[0])
            query = next(one for one in queries if one.id == combination.query_ids[0])
            cosine = unit(reference.vectors) @ unit(query.vectors)[list(query.crop_ids).index(card.crop)]
            nearest = np.argsort(-cosine, kind="stable")[:3]
            assert [one.similarity for one in rows[0].neighbours] == pytest.approx(cosine[nearest], abs=1e-5)
            assert [one.label for one in rows[0].neighbours] == reference.label()[nearest].tolist()
            assert [one.right for one in rows[0].neighbours] == [
                one == card.label for one in reference.label()[nearest]
            ]
            assert rows[0].label == reference.label()[nearest[0]]
            assert rows[0].right == (rows[0].label == card.label)
            assert (card.kind == "rescued") == (rows[0].right == (combination == now))
        assert [one.set_id for one in card.views] == list(evaluator.coded.queries)
        for view, query in zip(card.views, queries, strict=True):
            assert view.file.endswith(f"test_{query.id}/{card.crop}.png")
        for one in [*card.views, *card.before[0].neighbours, *card.now[0].neighbours]:
            data = base64.b64decode(one.uri.removeprefix("data:image/jpeg;base64,"))
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
            assert picture.shape[:2] == (112, 67)
            np.testing.assert_allclose(picture.mean(axis=(0, 1)), colors[one.file], atol=4)


def test_views_are_marked_right_alone_by_their_own_references(evaluator):
    before, now, change = flipping(evaluator)
    names = [name.split("/")[-1] for name in evaluator.coded.crops]
    for card in cards_of(evaluator, before, now, change):
        for view in card.views:
            decisions = evaluator.decide(Combination((view.set_id,), (view.set_id,)))
            at = int(np.flatnonzero(decisions.crop == names.index(card.crop))[0])
            assert view.right == (decisions.voted[at] == decisions.label[at])


def test_the_swing_is_the_change_of_the_margin_by_brute_force(pictures):
    references, queries, _ = pictures
    before, now = Combination(("0",), ("0",)), Combination(("10", "20"), ("0", "20"))
    for mode in ("stack", "vote"):
        evaluator = make_evaluator(references, queries, fusion=mode)
        decided = {one: evaluator.decide(one) for one in (before, now)}
        crops = np.array([5, 17, 2])

        def margin(combination, crop, evaluator=evaluator):
            """Over the views of the crop: cosine of the nearest reference of its label, less that of any other."""
            gallery = [one for one in references if one.id in combination.reference_ids]
            vectors, names = np.concatenate([r.vectors for r in gallery]), np.concatenate([r.label() for r in gallery])
            values = []
            for query in (one for one in queries if one.id in combination.query_ids):
                row = list(query.crop_ids).index(evaluator.coded.crops[crop].split("/")[-1])
                cosine, same = unit(vectors) @ unit(query.vectors)[row], names == query.label()[row]
                values.append(cosine[same].max() - cosine[~same].max())
            return np.mean(values)

        expected = [abs(margin(now, crop) - margin(before, crop)) for crop in crops]
        np.testing.assert_allclose(cards.swing(evaluator, decided, before, now, crops), expected, atol=1e-6)


def test_cards_come_from_different_classes_first():
    moved, label = np.array([9.0, 8, 7, 6, 5]), np.array([1, 1, 1, 2, 3])
    assert cards._spread(moved, label, np.array([10, 11, 12, 13, 14])) == [10, 13, 14, 11, 12]


def test_right_and_wrong_are_told_by_sign_and_word_not_by_colour_alone(page, evaluator, compared):
    markup = section(page, "flips")
    marked = re.findall(
        r'<figure class="thumb (right|wrong)">.*?alt="([^"]*)".*?<span class="sign" aria-hidden="true">(.)</span>',
        markup,
    )
    assert len(marked) == markup.count("<figure")
    assert {(kind, sign, alt.rsplit(", ", 1)[1]) for kind, alt, sign in marked} <= {
        ("right", "✓", "right"),
        ("wrong", "✗", "wrong"),
    }
    change = change_of(evaluator, compared.baseline.combination, compared.results[0].combination)
    sums = plain(re.search(r'<ul class="sums">.*?</ul>', markup, re.S)[0])
    assert f"▲ {change.rescued.sum()} rescued ▼ {change.broken.sum()} broken" in sums


def test_flips_by_class_add_up(page, evaluator, compared):
    rows = table(section(page, "classes"))
    change = change_of(evaluator, compared.baseline.combination, compared.results[0].combination)
    by_class = {row[1]: (int(row[2]), int(row[0])) for row in rows}
    expected = zip(evaluator.coded.classes, change.rescued, change.broken, strict=True)
    assert by_class == {name: (r, b) for name, r, b in expected if r + b}
    assert f"({tables.p_is(change.p)}, not corrected for other comparisons; signs of whole photos flipped)".replace(
        "\u00a0", " "
    ) in plain(section(page, "classes"))


def test_a_missing_picture_is_a_named_placeholder(pictures, tmp_path):
    references, queries, _ = pictures
    lost = [dataclasses.replace(one, meta={**one.meta, "data_root": str(tmp_path)}) for one in references]
    unknown = [dataclasses.replace(one, paths=np.full(len(one), "")) for one in queries]
    evaluator = make_evaluator(lost, unknown)
    markup = section(render(evaluator, search(evaluator), title=""), "flips")
    assert "<img" not in markup
    assert re.search(r"train\d+_\d+\.png<br>image missing", markup)
    assert "no path known" in markup


def test_hostile_text_stays_text(pictures):
    def hostile(one):
        names = np.array([f"{HOSTILE}{i}" for i in range(len(one))])
        labels = np.char.add(one.labels, HOSTILE)
        return dataclasses.replace(
            one, labels=labels, crop_ids=names, paths=names, meta={**one.meta, "id": one.id + HOSTILE}
        )

    evaluator = make_evaluator(*([hostile(one) for one in side] for side in pictures[:2]))
    made = render(evaluator, search(evaluator), title=HOSTILE)
    assert "<script" not in made
    assert not re.search(r'="[^"]*<[^"]*"', made)
    assert made.count("&lt;scrip") > 20


@pytest.mark.parametrize("mode", ["vote", "mean", "concat"])
def test_every_fusion_mode_has_its_page(pictures, mode):
    evaluator = make_evaluator(*pictures[:2], fusion=mode)
    found = search(evaluator, high=3)
    made = render(evaluator, found, title="study")
    assert table(section(made, "ranking"))[0][3] == f"{100 * found.results[0].score:.1f}%"
    pairs = [text for row in table(section(made, "pairs")) for text in row[1:]]
    assert pairs.count("–") == (6 if mode == "concat" else 0)
    assert f"{mode}, one decision per crop" in plain(section(made, "about"))
    assert "data:image/jpeg" in section(made, "flips")


def one_pair(n_images=6, right=None, ids=("0",)):
    """An evaluator of tiny sets; `right` True or False makes every decision so."""
    sides = []
    for split, seed in (("train", 1), ("test", 2)):
        sides.append([one for one in study(seed, split=split, n_images=n_images) if one.id in ids])
    if right is not None:
        eye = np.eye(5, 6, dtype=np.float32)
        for side, shift in zip(sides, (0, 0 if right else 1), strict=True):
            code = [np.char.lstrip(one.labels[:, 0], "c").astype(int) for one in side]
            side[:] = [
                dataclasses.replace(one, vectors=eye[(c + shift) % 5]) for one, c in zip(side, code, strict=True)
            ]
    return make_evaluator(*sides)


def test_a_single_pair_of_sets_and_a_single_image():
    evaluator = one_pair(n_images=1)
    made = plain(render(evaluator, search(evaluator), title=""))
    assert "Which padding? Only 0/0 was given: accuracy " in made
    assert "There is no other combination to compare 0/0 with" in made
    assert "95% interval 0.0 to 100.0%" in made
    assert "Few photos. 1 photo, fewer than 20" in made


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right):
    evaluator = one_pair(n_images=30, right=right, ids=("0", "10"))
    made = render(evaluator, search(evaluator), title="")
    assert {text.split("★ ")[-1].split(" ")[0] for row in table(section(made, "pairs")) for text in row[1:]} == (
        {"100.0"} if right else {"0.0"}
    )
    assert ("every decision of" in plain(section(made, "confusion"))) == right
    assert "No crop is rescued or broken" in plain(section(made, "flips"))


def test_crops_that_no_two_sets_share_are_not_compared():
    references, queries = study(1, split="train"), study(2, split="test")
    queries = [dataclasses.replace(q, crop_ids=np.char.add(q.crop_ids, q.id)) for q in queries]
    evaluator = make_evaluator(references, queries)
    found = search(evaluator, baseline=Combination(("20",), ("20",)))
    assert found.n_matched == 0
    made = render(evaluator, found, title="")
    assert [row[6:9] for row in table(section(made, "ranking"))[:1]] == [["–", "– to –", "–"]]
    assert "No crop is in every query set, so no difference can be measured" in plain(made)
    assert "0 crops that every query set holds" in plain(section(made, "flips"))


@pytest.mark.parametrize(
    ("ids", "drawn"),
    [
        (("0", "10", "7.5"), ["0", "7.5", "10"]),
        (("0", "0.0", "5"), None),
        (("a", "b", "c"), None),
        (("nan", "1", "2"), None),
    ],
)
def test_accuracy_against_padding_is_by_number_only_where_ids_are_different_numbers(ids, drawn):
    def renamed(sets):
        return [one.renamed(id=name) for one, name in zip(sets, ids, strict=True)]

    evaluator = make_evaluator(renamed(study(1, split="train")), renamed(study(2, split="test")))
    found = search(evaluator, high=1)
    content = tables.padding(evaluator.coded, tables.pair_scores(evaluator, found), found.results[0])
    assert [one.combination.query_ids[0] for one in content.scores] == (drawn or list(ids))
    assert bool(content.charts) == (drawn is not None)
    rows = table(section(render(evaluator, found, title=""), "padding"))
    assert [row[0] for row in rows] == (drawn or list(ids))
    if drawn:
        chart = content.charts["wide"]
        places = [x for x, _ in chart.dots]
        assert (places[1] - places[0]) / (places[2] - places[0]) == pytest.approx(0.75, abs=0.001)
        assert [text for _, text in chart.ticks] == drawn


def test_axis_ticks_by_hand():
    assert charts.Axis(0.58, 0.81, 0, 230).ticks == [(20.0, "60%"), (120.0, "70%"), (220.0, "80%")]
    assert charts.Axis(0.703, 0.713, 0, 100).ticks == [(20.0, "70.5%"), (70.0, "71.0%")]
    assert charts.Axis(100, 1_000_000, 0, 400, log=True).ticks == [
        (0.0, "100"), (100.0, "1 k"), (200.0, "10 k"), (300.0, "100 k"), (400.0, "1 M"),
    ]  # fmt: skip
    assert [charts.short_number(one) for one in (7, 999, 999_600, 2_500_000, 3.21e9)] == [
        "7",
        "999",
        "1 M",
        "2.5 M",
        "3.21 G",
    ]
    assert charts.share_axis([1.0, 1.0], 0, 1).low == pytest.approx(0.99)


def test_the_front_is_numbered_by_cost_and_its_numbers_do_not_touch(compared):
    def point(i, cost, score, pareto=True):
        return dataclasses.replace(
            compared.results[0],
            combination=Combination((str(i),), ("0",)),
            cost=dataclasses.replace(compared.results[0].cost, operations=cost),
            score=score,
            pareto=pareto,
        )

    many = [point(i, 1000 + i, 0.5 + i / 1000) for i in range(40)] + [
        point(99, 5000, 0.2, pareto=False),
        point(98, 1000, 0.5),
    ]
    front = charts.pareto_points(many)
    assert [one.number for one in front] == list(range(1, charts.NUMBERED + 1))
    assert (front[0].results[0].cost.operations, front[-1].results[0].cost.operations) == (1000, 1039)
    assert len(front[0].results) == 2  # as good and as cheap: one point
    for width in (336, 500):
        chart = charts.cost_chart(many, width)
        across = [number[0] for number in chart.numbers]
        assert min(np.diff(across)) >= charts.LABEL_GAP - 1e-9
        assert min(across) > charts.LEFT
        assert max(across) < width


def test_the_page_stays_small_whatever_the_input(tmp_path):
    """5,000 combinations of long IDs, 500 classes of long names, large pictures of noise that JPEG cannot shrink."""
    rng = np.random.default_rng(0)
    for i in range(30):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (200, 200, 3), np.uint8))
    ids = [f"{i}-{'long' * 60}" for i in range(8)]

    def sets(split):
        n, labels = 500, np.array([[f"class {i} {'name ' * 40}"] for i in range(500)])
        crops = np.array([f"{split}{i}{'x' * 200}" for i in range(n)])
        images = np.array([f"{split}{i // 4}" for i in range(n)])
        paths = np.array([f"{i % 30}.png" for i in range(n)])
        base = np.random.default_rng(1).normal(size=(n, 8))
        for at, one in enumerate(ids[:3]):
            meta = {"dataset_name": "d", "split": split, "id": one, "fingerprint": "m", "data_root": str(tmp_path)}
            vectors = (base + (0.5 + 0.1 * at) * rng.normal(size=(n, 8))).astype(np.float32)
            yield embeddings.EmbeddingSet(vectors, labels, crops, images, paths, meta)

    evaluator = make_evaluator(list(sets("train")), list(sets("test")))
    found = search(evaluator, high=1)
    asked = [one.combination for one in found.results] + enumerate_combinations(ids, ids, 2, 3, "crossed")[:4991]
    cost = found.results[0].cost
    results = [
        dataclasses.replace(
            found.results[0],
            combination=one,
            score=score,
            pareto=True,
            cost=dataclasses.replace(cost, operations=1000 + at),
        )
        for at, (one, score) in enumerate(zip(asked, np.sort(rng.random(5000))[::-1], strict=True))
    ]
    assert len(charts.cost_chart(results, 500).front) < 20_000
    shown = dataclasses.replace(found, results=results)
    decided = comparison.decide_reported(evaluator, shown, shown)
    pages.write(tmp_path / "r.html", evaluator, decided, findings(evaluator, shown, title="t" * 10_000))
    made = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert 200_000 < len(made.encode()) <= 3_000_000
    assert made.count('<li class="flip ') == 12
    assert "4,975 more combinations" in made


def test_pictures_stop_at_the_budget(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    album = cards.Album()
    size = len(album.show(str(tmp_path / "a.png"))[1])
    monkeypatch.setattr(cards, "BUDGET", 2 * size + 1)
    album = cards.Album()
    shown = [album.show(str(tmp_path / "a.png")) for _ in range(3)]
    assert [bool(uri) for _, uri, _ in shown] == [True, True, False]
    assert shown[2][2] == "left out, the page is full"


def test_the_learning_curve_is_listed_and_drawn_where_its_numbers_are(evaluator, compared, page, curve):
    shown = section(page, "photos")
    rows = table(shown)
    assert [row[0] for row in rows] == [str(one.photos) for one in curve.points[:-1]] + [
        f"all, up to {curve.points[-1].photos}"
    ]
    for row, one in zip(rows, curve.points, strict=True):
        assert row[2:4] == [f"{100 * one.accuracy:.1f}%", f"{100 * one.low:.1f} – {100 * one.high:.1f}"]
    assert rows[0][4] == f"{100 * curve.points[0].low_draw:.1f} – {100 * curve.points[0].high_draw:.1f}"
    gain = compared.evidence.smallest_gain
    for name in ("photos", "about"):
        assert f"{100 * gain:.1f} points" in plain(section(page, name))
    assert page.count("#photos") == 1
    assert 'id="photos"' not in render(evaluator, compared)
    # Photos on a logarithmic axis: 1 at the left, 4 in the middle, 16 at the right; accuracy upwards.
    points = [
        CurvePoint(n, n, score, score - 0.1, score + 0.1, score - 0.05, score + 0.05)
        for n, score in ((1, 0.2), (4, 0.5), (16, 0.6))
    ]
    chart = curve_chart(points, 500)
    (left, low), (middle, _), (right, high) = chart.dots
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert low > high
    assert [text for _, text in chart.ticks] == ["1", "4", "16"]
    assert chart.line == charts.path(chart.dots)
    assert chart.ribbon.startswith(f"M{left:g} {chart.y(0.3):g}L{middle:g} {chart.y(0.6):g}")
    assert chart.draws.endswith(f"L{left:g} {chart.y(0.15):g}Z")


def test_a_curve_of_one_point_is_listed_only(evaluator, compared, curve):
    alone = dataclasses.replace(curve, points=curve.points[-1:])
    shown = section(render(evaluator, compared, curve=alone), "photos")
    assert "<svg" not in shown
    assert len(table(shown)) == 1


def test_the_script_writes_it_and_writes_it_alike(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for one in (*pictures[0], *pictures[1]):
        embeddings.save(tmp_path / "emb" / f"d_{one.id}_{one.split}.npz", one)
    argv = ["--train_npz", "emb", "--test_npz", "emb", "--combination_size", "1-2", "--quiet"]
    for name in ("a", "b"):
        assert greedy_combo_eval.main([*argv, "--report", f"{name}.html", "--learning_curve"]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    out = capsys.readouterr().out
    assert "wrote a.html" in out
    assert re.search(r"query photos can show a gain of \d+\.\d points or more \(power 80%\)", out)
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium to look at the page with")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_chromium_shows_it_whole_and_asks_for_nothing(browser, page, tmp_path, width, scheme):
    (tmp_path / "r.html").write_text(page, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "r.html").as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "r.html").as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    assert tab.evaluate("document.images.length") == page.count("<img")
    assert tab.evaluate(OUTSIDE) == []
    shown, sizes = tab.evaluate(TEXTS)
    assert set(shown) == {"narrow" if width == 390 else "wide"}
    assert min(sizes) >= 12  # text keeps its size on a phone
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => +one.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert tab.evaluate("[...document.querySelectorAll('svg[role=img], img')].every(one => one.ariaLabel || one.alt)")
    for contrast in tab.evaluate(CONTRASTS):
        assert contrast["ratio"] >= 4.5, contrast
    context.close()


OUTSIDE = """[...document.querySelectorAll('main *')]
  .filter(one => !one.closest('.scroll') && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 80))"""
TEXTS = """(() => {
  const height = one => one.getBoundingClientRect().height;
  const charts = [...document.querySelectorAll('.chart svg[role=img]')].filter(height);
  return [charts.map(one => one.classList[0]), charts.flatMap(one => [...one.querySelectorAll('text')].map(height))];
})()"""
CONTRASTS = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = one => {
    for (; one; one = one.parentElement) {
      const color = rgb(getComputedStyle(one).backgroundColor);
      if (color[3]) return color;
    }
    return [255, 255, 255];
  };
  const light = color => {  // relative luminance, WCAG 2
    const [r, g, b] = color.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = 'h1, h2, p, td, th, b, dt, dd, figcaption, .sign, .tag, .up, .down, .front-key i, summary, nav a';
  return [...document.querySelectorAll(texts)].filter(one => one.getBoundingClientRect().width && one.textContent.trim())
    .map(one => {
      const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
      return {text: one.textContent.trim().slice(0, 40), ratio: (a + 0.05) / (b + 0.05)};
    });
})()"""
