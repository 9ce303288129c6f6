"""UMAP's layout on every core: the same map for a seed, on any number of threads.

The forces and their order are UMAP's (McInnes, Healy & Melville 2018, arXiv:1802.03426, algorithm 5): an edge moves both of its
ends, then random points push the first of them away. umap-learn takes one edge after the other, so a seed repeats a map on one
thread only. Here points belong to groups, and an epoch is a tournament of groups: in each round every group meets one other, so the
meetings of a round move different points and may go on side by side. Points that push stand where they stood before the
epoch, and each edge has random numbers of its own. A force is read from a table: it depends on the squared distance only, and a
power costs more than all the rest of a move.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np

from common.cli import cores

NEGATIVES = 5  # random points that push, for each neighbour that pulls: as umap-learn has it
GROUPS = 16  # even; half as many threads find work
FEW = 2_000  # points that one thread moves sooner than several
_TINY, _FARTHEST = 1e-3, np.float32(4)
_GOLDEN, _MIX, _MIX_AGAIN = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def lay_out(start: np.ndarray, graph: Any, curve: tuple[float, float], epochs: int, *, seed: int) -> np.ndarray:
    """Return the points (n, 2 or 3) float32 after `epochs`, from where they `start` (n, 2 or 3).

    graph: scipy sparse (n, n), symmetric, weights above 0. curve: the a and b of 1 / (1 + a distance^2b), how near points on the
    map are counted as neighbours. seed: 0 to 2^32 - 1.
    """
    n, dimensions = start.shape
    points = np.zeros((n, 3), np.float32)
    points[:, :dimensions] = start
    threads = cores() if n > FEW else 1
    edges = graph.tocoo()
    order, rounds = _tournament(edges.row, edges.col, threads)
    heads, tails = edges.row[order], edges.col[order]
    shares = (edges.data[order] / edges.data.max()).astype(np.float32)  # of the epochs in which an edge pulls
    forces = _forces(*curve)
    with ThreadPoolExecutor(threads) as pool:
        for epoch in range(1, epochs):
            move = partial(_move, points, points.copy(), heads, tails, shares, *forces, epoch, epochs, seed)
            for parts in rounds:
                list(pool.map(move, parts))
    return points[:, :dimensions].copy()


def _tournament(heads: np.ndarray, tails: np.ndarray, threads: int) -> tuple[np.ndarray, list[list[tuple[int, int]]]]:
    """Return the order of the edges, and for each round the parts (first, last + 1) of them that move no common point.

    The circle method: of an even number of groups, each meets every other one in one of GROUPS - 1 rounds; a last round is of
    edges within a group. For one thread there is one round with one part: the same order.
    """
    one, other = np.minimum(heads % GROUPS, tails % GROUPS), np.maximum(heads % GROUPS, tails % GROUPS)
    last = GROUPS - 1
    number = np.where(other == last, 2 * one, one + other) % last  # of the round
    number[one == other] = last
    meeting = number * GROUPS + one
    order = np.argsort(meeting, kind="stable")
    if threads == 1:
        return order, [[(0, len(order))]]
    firsts = np.searchsorted(meeting[order], np.arange(GROUPS * GROUPS + 1))
    rounds = []
    for start in range(0, GROUPS * GROUPS, GROUPS):
        meetings = firsts[start : start + GROUPS + 1]
        even = np.linspace(meetings[0], meetings[-1], threads + 1)[1:-1]
        cuts = [meetings[0], *meetings[np.searchsorted(meetings, even)], meetings[-1]]
        rounds.append([(first, end) for first, end in itertools.pairwise(cuts) if first < end])
    return order, rounds


def _forces(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how strongly points pull and push, (2^15,) float32 each, by the upper 16 bits of their squared distance as a float32.

    That is a step of 1/128 of the squared distance, and the middle of it is taken: forces are within 0.8 % of the formula's.
    """
    middle = (np.arange(1 << 15, dtype=np.uint32) << 16 | 1 << 15).view(np.float32)
    square = np.where(np.isfinite(middle), middle, np.inf).astype(np.float64)
    power = square**b
    pull = 2 * a * b / (square ** (1 - b) * (1 + a * power))
    push = 2 * b / ((_TINY + square) * (1 + a * power))
    return pull.astype(np.float32), push.astype(np.float32)


@numba.njit(nogil=True, fastmath=True)
def _move(points, before, heads, tails, shares, pulls, pushes, epoch, epochs, seed, part):  # type: ignore[no-untyped-def]
    """Move the ends of the edges of `part`, (first, last + 1), in place; `before` are all points as they stood before the epoch."""
    step = np.float32(1 - epoch / epochs)
    away, push = np.empty((NEGATIVES, 3), np.float32), np.empty(NEGATIVES, np.float32)
    for edge in range(*part):
        if np.floor(epoch * shares[edge]) == np.floor((epoch - 1) * shares[edge]):
            continue  # an edge of share 1/3 pulls in every third epoch
        head, tail = points[heads[edge]], points[tails[edge]]
        x, y, z = head
        dx, dy, dz = x - tail[0], y - tail[1], z - tail[2]
        square = dx * dx + dy * dy + dz * dz
        if square > 0:
            pull = _at(pulls, square)
            dx, dy, dz = step * _clip(pull * dx), step * _clip(pull * dy), step * _clip(pull * dz)
            x, y, z = x - dx, y - dy, z - dz
            tail[0], tail[1], tail[2] = tail[0] + dx, tail[1] + dy, tail[2] + dz
        state = np.uint64(seed) ^ (np.uint64(epoch) * _MIX) ^ (np.uint64(edge + 1) * _MIX_AGAIN)
        for s in range(NEGATIVES):  # three short loops, so that the processor works at all five at once
            state += _GOLDEN
            pusher = _below(len(before), state)
            other, counts = before[pusher], np.float32(pusher != heads[edge])  # no point pushes itself
            away[s, 0], away[s, 1], away[s, 2] = (
                counts * (x - other[0]),
                counts * (y - other[1]),
                counts * (z - other[2]),
            )
        for s in range(NEGATIVES):
            square = away[s, 0] ** 2 + away[s, 1] ** 2 + away[s, 2] ** 2
            push[s] = _at(pushes, square)
        for s in range(NEGATIVES):
            x += step * _clip(push[s] * away[s, 0])
            y += step * _clip(push[s] * away[s, 1])
            z += step * _clip(push[s] * away[s, 2])
        head[0], head[1], head[2] = x, y, z


@numba.njit(nogil=True, fastmath=True)
def _at(forces, square):  # type: ignore[no-untyped-def]
    return forces[np.float32(square).view(np.int32) >> 16]


@numba.njit(nogil=True, fastmath=True)
def _clip(force):  # type: ignore[no-untyped-def]
    return min(max(force, -_FARTHEST), _FARTHEST)


@numba.njit(nogil=True, fastmath=True)
def _below(n, state):  # type: ignore[no-untyped-def]
    """Return a number from 0 to n - 1 for a state, by SplitMix64 (Steele, Lea & Flood 2014)."""
    mixed = (state ^ (state >> np.uint64(30))) * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_AGAIN
    mixed ^= mixed >> np.uint64(31)
    return np.int64(((mixed >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))
