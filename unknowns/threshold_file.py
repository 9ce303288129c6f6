"""The file of a threshold, and the sentence that says what it holds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from common import run_record
from common.messages import UserError
from unknowns.scores import SCORES
from unknowns.threshold import Threshold


def describe(threshold: Threshold) -> str:
    """Return one sentence, or two where the data cannot support what was asked."""
    basis = f"{threshold.n_photo} photos and {threshold.n_class} classes ({threshold.how}; AUROC {threshold.auroc:.3f})"
    share = f"at most {threshold.false_accept:.3g} of unknown products"
    rule = f"UNKNOWN unless {threshold.score} > {threshold.threshold:.4f}"
    if threshold.supported:
        return f"{rule}: {share} accepted, set on {basis}"
    if math.isinf(threshold.threshold):
        rule, advice = "UNKNOWN always", "so nothing is accepted"
    elif threshold.n_photo >= threshold.needed:
        advice = "so that holds in new photos of these products, not for other products"
    else:
        advice = "so that holds for other products, not in new photos"
    needed = f"{threshold.needed} photos and {threshold.needed} classes"
    least = math.ceil(1000 / (min(threshold.n_photo, threshold.n_class) + 1)) / 1000
    return f"{rule}: to accept {share} takes {needed}; here are {basis}, {advice}; they suffice for --reject {least:g}"


def write(path: Path, threshold: Threshold, references: dict[str, object]) -> None:
    """Write the threshold and what its references were, as JSON; an infinite threshold is null."""
    value = threshold.threshold if math.isfinite(threshold.threshold) else None
    run_record.write_json(path, {**dataclasses.asdict(threshold), "threshold": value, "references": references})


def read(path: Path, references: dict[str, object]) -> Threshold:
    """Return the threshold of a file. Raises UserError where it is damaged, or was set for other references."""
    try:
        content = run_record.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with --reject A --threshold {path}") from None
    names = {field.name for field in dataclasses.fields(Threshold)}
    value = content.get("threshold", "")
    if not names <= set(content) or content["score"] not in SCORES or not isinstance(value, (int, float, type(None))):
        raise UserError(f"{path} holds no threshold; make it anew with --reject")
    if content.get("references") != references:
        raise UserError(f"{path} was set for other references; set it anew with --reject {content['false_accept']}")
    return Threshold(
        **{**{name: content[name] for name in names}, "threshold": math.inf if value is None else float(value)}
    )
