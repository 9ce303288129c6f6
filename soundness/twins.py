"""Near twins: queries whose picture stands, almost unchanged, among the references."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from common import knn
from common.cli import cores
from common.messages import progress
from soundness.crops import Crops
from soundness.pictures import Pictures, agreement

CANDIDATES = 3  # references a query, by descriptor and as many by embedding, that are laid over it
LIKE = 0.4  # cosine of descriptors below which two pictures are not laid over each other
AGREE = 0.9  # agreement of pictures from which two are twins
COSINE = 0.95  # of embeddings, from which two are twins where a picture is missing


@dataclass(frozen=True, eq=False)
class Twins:
    """The nearest twin of each query that has one; arrays (n_twin,).

    query, reference: rows of the crops. agreement: of their pictures, in 0..1, NaN where one of these is missing. cosine: of their
    embeddings.
    """

    query: np.ndarray
    reference: np.ndarray
    agreement: np.ndarray
    cosine: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


def near_twins(crops: Crops, pictures: Pictures, groups: np.ndarray | None = None) -> Twins:
    """Return the near twins, the surest first.

    Candidates are the nearest references by descriptor and by embedding; two pictures are twins from an agreement of AGREE. Where
    one of the two pictures is not known, they are twins from a cosine of COSINE. `groups` (n,): int codes of what is no neighbour
    of a query, as the rule of the evaluation says.
    """
    n = crops.n_reference
    sides = (None, None) if groups is None else (groups[n:], groups[:n])
    depth = min(CANDIDATES, n)
    found = [
        knn.search_excluding(vectors[n:], vectors[:n], depth, *sides)[1]
        for vectors in (pictures.descriptors, crops.vectors)
    ]
    pairs = np.stack([np.repeat(np.arange(n, len(crops)), 2 * depth), np.concatenate(found, axis=1).ravel()], axis=1)
    pairs = np.unique(pairs[pairs[:, 1] >= 0], axis=0)
    query, reference = pairs.T
    cosine = _cosines(crops.vectors, query, reference)
    seen = pictures.known[query] & pictures.known[reference]
    alike = seen & (np.einsum("nd,nd->n", *(pictures.descriptors[rows] for rows in (query, reference))) >= LIKE)
    agree = np.where(seen, 0.0, np.nan)
    agree[alike] = _agreements(pictures.small, query[alike], reference[alike])
    twin = np.flatnonzero(np.where(seen, agree >= AGREE, cosine >= COSINE))
    order = twin[np.lexsort((-cosine[twin], -np.nan_to_num(agree[twin])))]
    _, first = np.unique(query[order], return_index=True)
    kept = order[np.sort(first)]
    return Twins(query[kept], reference[kept], agree[kept], cosine[kept])


def _cosines(vectors: np.ndarray, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    cosines = np.empty(len(query), np.float32)
    for start in range(0, len(query), 1 << 14):
        part = slice(start, start + (1 << 14))
        cosines[part] = np.einsum("nd,nd->n", knn.unit(vectors[query[part]]), knn.unit(vectors[reference[part]]))
    return cosines


def _agreements(small: np.ndarray, query: np.ndarray, reference: np.ndarray) -> list[float]:
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(agreement, (small[row] for row in query), (small[row] for row in reference))
        return list(progress(found, total=len(query), desc="comparing pictures", unit="pair"))
