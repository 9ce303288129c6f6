"""Embedding sets as int codes: whether they can be compared, and the labels, crops, photos or groups of photos of their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.embedding_sets import pieces, require_one_model
from common.embeddings import EmbeddingSet
from common.labels import groups
from common.messages import UserError, count
from evaluation import fusion
from evaluation.records import Rule


@dataclass(frozen=True)
class Units:
    """How units are made of photos; `group_by` as in common.labels.groups, None: each photo is a unit of its own."""

    group_by: str | None = None

    def noun(self) -> str:
        """Return what a unit is called: "group", or "photo" where photos are not grouped."""
        return "group" if self.group_by else "photo"

    def names(self, sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
        """Return per set, in pieces, the join keys of the units of its rows; `side` is reference or query.

        Raises UserError where photos are grouped and one has no name or no group.
        """
        return [self._grouped(one) for one in sets] if self.group_by else photo_names(sets, side)

    def _grouped(self, embedding_set: EmbeddingSet) -> Iterator[np.ndarray]:
        for piece in pieces(embedding_set):
            samples, place = np.unique(piece.sample_ids, return_inverse=True)
            if (samples == "").any():
                raise UserError(f"{embedding_set.source} has rows without a sample id; --group_by groups these")
            named = np.array(groups(samples.tolist(), self.group_by), str)
            yield np.char.add(f"{embedding_set.dataset}/", named)[place.ravel()]


PHOTOS = Units()


def crop_names(
    sets: Sequence[EmbeddingSet], side: str, queries: Sequence[EmbeddingSet] = ()
) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of its crops; where crop_ids are missing, a row is known by side and number.

    Then rows of the same number are the same crop if all sets are of one length, which is how older files are laid out, and rows
    of a file that is among the `queries`, too, are the crops that they are there.
    """
    of_file = {
        one.source: prefix for one, prefix in zip(queries, _prefixes(queries, "query"), strict=True) if one.source
    }
    prefixes = [of_file.get(one.source, prefix) for one, prefix in zip(sets, _prefixes(sets, side), strict=True)]
    return list(map(_crop_names, sets, prefixes))


def _prefixes(sets: Sequence[EmbeddingSet], side: str) -> list[str]:
    aligned = len({len(embedding_set) for embedding_set in sets}) == 1
    return [f"{side} {'' if aligned else embedding_set.id} row " for embedding_set in sets]


def _crop_names(embedding_set: EmbeddingSet, prefix: str) -> Iterator[np.ndarray]:
    start = 0
    for piece in pieces(embedding_set):
        key, stop = fusion.crop_keys(piece), start + len(piece)
        missing = key == ""
        yield np.where(missing, np.char.add(prefix, np.arange(start, stop).astype(str)), key) if missing.any() else key
        start = stop


def photo_names(
    sets: Sequence[EmbeddingSet], side: str, queries: Sequence[EmbeddingSet] = ()
) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of the source photos.

    Without the source photo a crop is its own cluster; the prefix keeps it apart from photos of the same name.
    """
    return [_photo_names(*both) for both in zip(sets, crop_names(sets, side, queries), strict=True)]


def _photo_names(embedding_set: EmbeddingSet, crops: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for piece, crop in zip(pieces(embedding_set), crops, strict=True):
        key = fusion.sample_keys(piece)
        missing = key == ""
        yield np.where(missing, np.char.add("crop ", crop), key) if missing.any() else key


@dataclass(frozen=True, eq=False)
class Codes:
    """Of the rows of one set, (n,) int64 each: codes of the label, the crop, the image and the photo.

    image: what intervals count as one, the source photo or its group (see Units); -1 for references. photo: the source photo. A
    reference's crop or photo is -1 where no query has it: it matters only where a query has the same.
    """

    label: np.ndarray
    crop: np.ndarray
    image: np.ndarray
    photo: np.ndarray


@dataclass(frozen=True, eq=False)
class CodedSets:
    """References and queries, embedding sets by ID, with the codes of their rows by the same IDs.

    classes (n_class,), crops (n_crop,) and images (n_image,): the sorted texts that the codes stand for. crop_label and crop_image
    (n_crop,): codes of each crop. matched (n_crop,) bool: whether every query set holds the crop, once.
    without_samples: the files of sets in which a row does not name its source photo. units: what an image is.
    """

    references: dict[str, EmbeddingSet]
    queries: dict[str, EmbeddingSet]
    reference_codes: dict[str, Codes]
    query_codes: dict[str, Codes]
    classes: np.ndarray
    crops: np.ndarray
    images: np.ndarray
    crop_label: np.ndarray
    crop_image: np.ndarray
    matched: np.ndarray
    without_samples: list[str]
    units: Units = PHOTOS

    @property
    def dataset(self) -> str:
        """The data set that the queries name; of several the first, and how many more; '' where they name none."""
        names = list(dict.fromkeys(query.dataset for query in self.queries.values()))
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where each reference set's rows begin when the rows of all are counted one after the other."""
        sizes = [len(reference) for reference in self.references.values()]
        return dict(zip(self.references, np.cumsum([0, *sizes]).tolist(), strict=False))

    @cached_property
    def neighbour_label(self) -> np.ndarray:
        """Label codes of the rows of all references; the last entry, which row -1 picks, is -1: no neighbour, no label."""
        return np.concatenate([*(codes.label for codes in self.reference_codes.values()), [-1]])

    @cached_property
    def matched_sizes(self) -> np.ndarray:
        """(n_image,) float64: the crops of each image that every query set holds."""
        return np.bincount(self.crop_image[self.matched], minlength=len(self.images)).astype(float)

    @cached_property
    def shared_images(self) -> int:
        """Number of photos with crops on both sides: leakage, unless the same sample is left out."""
        reference, query = (
            np.concatenate([codes.photo for codes in side.values()])
            for side in (self.reference_codes, self.query_codes)
        )
        return len(np.intersect1d(reference[reference >= 0], query))

    @cached_property
    def unmatched_views(self) -> int:
        """Number of rows of the queries whose crop is not in every query set."""
        return sum(int((~self.matched[codes.crop]).sum()) for codes in self.query_codes.values())


def code_sets(
    references: Sequence[EmbeddingSet],
    queries: Sequence[EmbeddingSet],
    label_level: int | None = None,
    units: Units = PHOTOS,
) -> CodedSets:
    """Code the labels at `label_level` (None: the deepest), crops and images of labelled sets with distinct IDs a side.

    `units`: what intervals, p and resampling count as one. Raises UserError for a set without that level, or a photo without group.
    """
    everything = [*references, *queries]
    n_reference = len(references)
    classes, labels = code(label_names(everything, label_level))
    crops, query_crops = code(crop_names(queries, "query"))
    photos, query_photos = code(photo_names(queries, "query"))
    images, query_images = code(units.names(queries, "query")) if units.group_by else (photos, query_photos)
    reference_crops = look_up(crops, crop_names(references, "reference", queries))
    reference_photos = look_up(photos, photo_names(references, "reference", queries))
    none = [np.full(len(photo), -1) for photo in reference_photos]
    reference_codes = map(Codes, labels[:n_reference], reference_crops, none, reference_photos)
    query_codes = list(map(Codes, labels[n_reference:], query_crops, query_images, query_photos))
    rows_of = np.bincount(np.concatenate(query_crops), minlength=len(crops))
    sets_of = np.bincount(np.concatenate([np.unique(crop) for crop in query_crops]), minlength=len(crops))
    crop_image, crop_label = np.zeros((2, len(crops)), np.int64)
    for codes in query_codes:
        crop_image[codes.crop], crop_label[codes.crop] = codes.image, codes.label
    reference_ids, query_ids = ([embedding_set.id for embedding_set in side] for side in (references, queries))
    return CodedSets(
        references=dict(zip(reference_ids, references, strict=True)),
        queries=dict(zip(query_ids, queries, strict=True)),
        reference_codes=dict(zip(reference_ids, reference_codes, strict=True)),
        query_codes=dict(zip(query_ids, query_codes, strict=True)),
        classes=classes,
        crops=crops,
        images=images,
        crop_label=crop_label,
        crop_image=crop_image,
        matched=(rows_of == len(queries)) & (sets_of == len(queries)),
        without_samples=without_samples(everything),
        units=units,
    )


def code(columns: Iterable[Iterable[np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the sorted distinct texts and, per column, the int64 code of each entry. A column comes in pieces."""
    parts = [[np.unique(piece, return_inverse=True) for piece in column] for column in columns]
    texts = np.unique(np.concatenate([distinct for column in parts for distinct, _ in column]))
    return texts, [
        np.concatenate([np.searchsorted(texts, distinct)[inverse.ravel()] for distinct, inverse in column])
        for column in parts
    ]


def look_up(texts: np.ndarray, columns: Iterable[Iterable[np.ndarray]]) -> list[np.ndarray]:
    """Return per column the int64 code of each entry among the sorted distinct `texts`; -1 where it is none of them."""
    return [np.concatenate([_codes_among(texts, piece) for piece in column]) for column in columns]


def _codes_among(texts: np.ndarray, piece: np.ndarray) -> np.ndarray:
    distinct, inverse = np.unique(piece, return_inverse=True)
    place = np.minimum(np.searchsorted(texts, distinct), len(texts) - 1)
    return np.where(texts[place] == distinct, place, -1)[inverse.ravel()]


def label_names(sets: Sequence[EmbeddingSet], level: int | None) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the labels at this level."""
    return [(piece.label(level) for piece in pieces(embedding_set)) for embedding_set in sets]


def without_samples(sets: Sequence[EmbeddingSet]) -> list[str]:
    """Return the files of sets in which a row does not name its photo."""
    return [
        embedding_set.source
        for embedding_set in sets
        if any((piece.sample_ids == "").any() for piece in pieces(embedding_set))
    ]


def check(coded: CodedSets, rule: Rule) -> None:
    """Raise UserError unless the sets can be compared by this rule: one model, one dimension, at least k references each.

    Sets of one model at several input sizes or poolings are variants of it: each pair is of one variant, see Evaluator.valid.
    """
    references, queries = coded.references.values(), coded.queries.values()
    everything = [*references, *queries]
    models = {embedding_set.fingerprint for embedding_set in everything if embedding_set.fingerprint}
    variants = len(models) > 1 and len({embedding_set.base for embedding_set in everything}) == 1
    if rule.fusion in ("stack", "mean") and not variants:
        require_one_model(everything, what="extract them with one model, or use --fusion concat or vote")
    elif rule.fusion == "vote" and len(models) < 2:
        require_one_model(everything, what="extract them with one model, or use --fusion concat")
    else:
        for model in models:
            of_model = [embedding_set for embedding_set in everything if embedding_set.fingerprint == model]
            require_one_model(of_model, what="extract them anew")
        same_model = [_check_pair(*pair, rule.fusion) for pair in itertools.product(queries, references)]
        if rule.fusion != "concat" and not any(same_model):
            require_one_model(everything, what="no query has references of its own model; add references of that model")
    for reference in references:
        if rule.k > len(reference):
            raise UserError(
                f"--k {rule.k} is larger than the {len(reference)} references of {reference.source}; choose a smaller --k"
            )


def _check_pair(query: EmbeddingSet, reference: EmbeddingSet, fusion_mode: str) -> bool:
    """Return whether both may be of one model. Raises UserError where the pair will be compared and cannot be."""
    same_model = query.fingerprint == reference.fingerprint or "" in (query.fingerprint, reference.fingerprint)
    compared = query.id == reference.id if fusion_mode == "concat" else same_model
    if compared and query.dim != reference.dim:
        raise UserError(
            f"{reference.source} has {reference.dim} dimensions, {query.source} {query.dim}, so that they are of different "
            "models; name the sets of one model, or use --fusion concat with the same IDs on both sides (models made by "
            "extract_embedding.py are compared side by side by evaluate_combo.py, without IDs)"
        )
    if fusion_mode == "concat" and query.id == reference.id and not same_model:
        raise UserError(
            f"{query.source} and {reference.source} have one ID and different models; name them apart: id=path"
        )
    return same_model


def remarks(coded: CodedSets, rule: Rule) -> list[str]:
    """Return one sentence for each thing about the sets that bears on how far the numbers can be trusted."""
    sentences = []
    everything = [*coded.references.values(), *coded.queries.values()]
    unknown = [embedding_set.source for embedding_set in everything if not embedding_set.fingerprint]
    if unknown:
        sentences.append(
            f"{len(unknown)} files do not say which model made them ({unknown[0]} …); they are compared unchecked"
        )
    if coded.without_samples:
        sentences.append(
            "no sample_ids: every crop counts as a photo of its own, intervals may be too narrow; name the paths of the "
            "photos with --paths_key"
        )
    by_path = {one.source: one.meta["known_by_path"] for one in everything if one.meta.get("known_by_path")}
    if own := [source for source, photos in by_path.items() if photos == 1]:
        sentences.append(
            f"every row of {own[0]} has a path of its own and counts as a photo; where several are crops of one photo, "
            "--group_by REGEX takes the part of the path that names it"
        )
    if shared := [source for source, photos in by_path.items() if photos < 1]:
        sentences.append(
            f"nothing but paths names the photos of {shared[0]}: rows of one path count as crops of one photo; where files "
            "of several folders share a name, write the folder into the path"
        )
    datasets = list(dict.fromkeys(one.dataset for one in coded.queries.values() if one.dataset))
    if len(datasets) > 1:
        some = ", ".join(datasets[:2]) + (" …" if len(datasets) > 2 else "")
        sentences.append(
            f"the query sets are of {len(datasets)} data sets, {some}, so their crops count as different ones; where they are "
            "the same objects, embed them anew with one --company_name"
        )
    if leaks := leakage(coded, rule):
        sentences.append(leaks)
    return sentences


def caution(coded: CodedSets, rule: Rule) -> str:
    """Return why the numbers are not those of new photos, for the verdict; "" where nothing stands against them."""
    return "; ".join(filter(None, (leakage(coded, rule), _untaught(coded))))


def _untaught(coded: CodedSets) -> str:
    """Return the sentence about labels without references; "" where they are at most half of the queries' crops."""
    known = np.unique(np.concatenate([codes.label for codes in coded.reference_codes.values()]))
    n_untaught, n_crop = int((~np.isin(coded.crop_label, known)).sum()), len(coded.crop_label)
    if 2 * n_untaught <= n_crop:
        return ""
    return (
        f"{n_untaught:,} of {n_crop:,} crops have a label that no reference has, and count as wrong; check that both sides "
        "are of one data set and name the classes alike"
    )


def leakage(coded: CodedSets, rule: Rule) -> str:
    """Return the sentence about photos that queries and references share; "" where none counts."""
    if rule.exclude != "none" or not coded.shared_images:
        return ""
    return (
        f"{count(coded.shared_images, 'photo')} {'has' if coded.shared_images == 1 else 'have'} crops among references "
        "and queries: leakage; add --exclude_same_sample, or split by photo"
    )
