"""Independent definitions of every metric, written for reading and not for speed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

BINARY = ("precision", "recall", "f1", "ndcg", "hit", "mrr", "map")


def orders(scores: Sequence[float]) -> Iterator[list[int]]:
    """Every order of the items that sorts the scores, descending."""
    levels = [[i for i, s in enumerate(scores) if s == level] for level in sorted(set(scores), reverse=True)]
    for choice in itertools.product(*(itertools.permutations(level) for level in levels)):
        yield [item for level in choice for item in level]


def ranking(scores: Sequence[float], grades: dict[int, float], k: int, max_grade: float) -> dict[str, float]:
    """Mean of each metric over all orders; ``grades`` of the positives by item, items not in ``scores`` are missed."""
    total = dict.fromkeys((*BINARY, "rated_ndcg", "err"), 0.0)
    number, n = 0, len(grades)
    ideal = sorted(grades.values(), reverse=True)[:k]
    for order in orders(scores):
        number += 1
        hits = [item in grades for item in order[:k]]
        h = sum(hits)
        total["precision"] += h / k
        total["recall"] += h / n
        total["f1"] += 2 * (h / k) * (h / n) / (h / k + h / n) if h else 0.0
        total["hit"] += h > 0
        total["mrr"] += next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
        total["map"] += sum(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit) / n
        dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        total["ndcg"] += dcg / sum(1 / math.log2(place + 2) for place in range(min(n, k)))
        gain = sum(grades.get(item, 0.0) / math.log2(place + 2) for place, item in enumerate(order[:k]))
        total["rated_ndcg"] += gain / sum(grade / math.log2(place + 2) for place, grade in enumerate(ideal))
        reading = 1.0
        for place, item in enumerate(order[:k]):
            stop = (2 ** grades[item] - 1) / 2**max_grade if item in grades else 0.0
            total["err"] += reading * stop / (place + 1)
            reading *= 1 - stop
    return {name: value / number for name, value in total.items()}


def lists(scores: Sequence[float], k: int, share: Sequence[float], features: Sequence[set[str]]) -> dict[str, float]:
    """Novelty, popularity and diversity of one list, meant over all orders."""
    total, number = {"novelty": 0.0, "popularity": 0.0, "diversity": 0.0}, 0
    for order in orders(scores):
        number += 1
        top = order[:k]
        total["novelty"] += sum(-math.log2(share[item]) for item in top) / len(top)
        total["popularity"] += sum(share[item] for item in top) / len(top)
        pairs = list(itertools.combinations(top, 2))
        alike = [
            len(features[a] & features[b]) / math.sqrt(max(1, len(features[a])) * max(1, len(features[b])))
            for a, b in pairs
        ]
        total["diversity"] += 1 - sum(alike) / len(pairs) if pairs else math.nan
    return {name: value / number for name, value in total.items()}


def exposure(scores: Sequence[Sequence[float]], k: int) -> tuple[float, float]:
    """Coverage and Gini index of the expected exposure of all lists, ties broken independently."""
    size = len(scores[0])
    expected, absent = [0.0] * size, [1.0] * size
    for row in scores:
        all_orders = list(orders(row))
        for item in range(size):
            inside = sum(item in order[:k] for order in all_orders) / len(all_orders)
            expected[item] += inside
            absent[item] *= 1 - inside
    gini = sum(abs(a - b) for a in expected for b in expected) / (2 * size * sum(expected))
    return sum(1 - value for value in absent) / size, gini
