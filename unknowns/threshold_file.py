"""The file of a threshold, and the sentence that says what it holds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from common import run_record
from common.messages import UserError
from unknowns.scores import SCORES
from unknowns.threshold import Threshold

SHARE: run_record.Check = ("a share between 0 and 1", lambda value: run_record.NUMBER[1](value) and 0 <= value <= 1)
FIELDS = {
    "score": run_record.one_of(*SCORES),
    "threshold": run_record.optional(run_record.NUMBER),
    "false_accept": ("a share above 0", lambda value: SHARE[1](value) and value > 0),
    "supported": run_record.FLAG,
    "n_photo": run_record.WHOLE,
    "n_class": run_record.WHOLE,
    "auroc": SHARE,
    "how": run_record.TEXT,
}


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
    content = {**dataclasses.asdict(threshold), "threshold": value, "references": references}
    run_record.write_json(path, {"format_version": 1, **content})


def read(path: Path, references: dict[str, object]) -> Threshold:
    """Return the threshold of a file. Raises UserError where it is damaged, or was set for other references."""
    try:
        content = run_record.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with --reject A --threshold {path}") from None
    if not {*FIELDS} & {*content}:
        raise UserError(f"{path} holds no threshold; make it anew with --reject")
    run_record.check_fields(content, FIELDS, str(path), needed=[*FIELDS, "references"])
    if content["references"] != references:
        raise UserError(f"{path} was set for other references; set it anew with --reject {content['false_accept']}")
    value = content["threshold"]
    fields = {name: content[name] for name in FIELDS}
    return Threshold(**{**fields, "threshold": math.inf if value is None else float(value)})
