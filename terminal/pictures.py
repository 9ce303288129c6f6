"""Pictures that evaluate_combo.py draws of combinations: maps of vectors, and similarity between classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import files, messages
from evaluation.codes import CodedSets
from evaluation.records import Combination, Decisions, Rule
from plots import heatmaps, maps, projection
from terminal.measures import class_similarity, map_points


def show_similarity(coded: CodedSets, reference_ids: Sequence[str], output_root: Path) -> None:
    """Print the mean cosine within and between classes of the merged references and draw it class by class."""
    text, matrix, names = class_similarity(coded, reference_ids)
    print(text)
    ids = "+".join(reference_ids)
    path = output_root / files.name_part(f"similarity_{ids}.png")
    heatmaps.similarity_heatmap(path, matrix, names, title=f"Mean cosine between classes, references {ids}")
    print(f"wrote {path} and .svg\n")


def draw(
    coded: CodedSets,
    rule: Rule,
    combination: Combination,
    decisions: Decisions,
    methods: Sequence[str],
    *,
    top_n: int,
    output_root: Path,
    seed: int,
) -> None:
    """Draw references and queries of one combination as 2-D maps."""
    vectors, labels, role, correct = map_points(coded, rule, combination, decisions)
    ids = "+".join(combination.reference_ids), "+".join(combination.query_ids)
    for method in methods:
        messages.note(f"{method} of {len(vectors):,} vectors …")
        points = projection.project(vectors, method, 2, seed=seed)
        learnt = "" if combination.is_plain else f"_{combination.classifier}"
        path = output_root / files.name_part(f"{method}_{ids[0]}_{ids[1]}{learnt}.png")
        title = f"{method.upper()}, references {ids[0]}, queries {ids[1]}{learnt.replace('_', ', ')}"
        maps.embedding_map(path, points, labels, top_n=top_n, marker_by=role, correct=correct, title=title)
        print(f"wrote {path} and .svg")
