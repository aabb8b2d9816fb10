"""scoring.retrieval: equal to a naive search over everything, whatever the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from llmtune.scoring.retrieval import Block, correlation, retrieval, shortened, uniformity


def pairs(num: int = 90, width: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs of texts (numbers) with a vector for each text; queries and partners repeat."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(size=(60, width)).astype(np.float32)
    texts[40] = texts[41]  # two texts with one vector
    query = rng.integers(0, 40, num)
    return {"vectors": shortened(texts, None), "query": query, "partner": rng.integers(20, 60, num),
            "other": rng.integers(30, 60, 25)}  # fmt: skip


def blocks_of(made: dict[str, np.ndarray], size: int) -> list[Block]:
    found = []
    for at in range(0, len(made["query"]), size):
        query, partner = made["query"][at : at + size], made["partner"][at : at + size]
        other = made["other"] if at == 0 else made["other"][:0]
        vectors = made["vectors"]
        found.append(Block(vectors[query], vectors[partner], query, partner, vectors[other], other))
    return found


def naive(made: dict[str, np.ndarray], width: int | None) -> dict[str, float]:
    vectors = shortened(made["vectors"], width)
    corpus = sorted({*made["partner"].tolist(), *made["other"].tolist()})
    places = []
    for query, partner in zip(made["query"], made["partner"]):
        own = {int(p) for q, p in zip(made["query"], made["partner"]) if q == query} | {int(query)}
        cosines = [float(vectors[query] @ vectors[text]) for text in corpus if text not in own]
        mine = float(vectors[query] @ vectors[partner])
        places.append(1 + sum(c > mine + 1e-6 for c in cosines) + sum(abs(c - mine) <= 1e-6 for c in cosines) / 2)
    found: dict[str, Any] = {f"recall_{k}": np.mean([place <= k for place in places]) for k in (1, 5, 10)}
    return {**found, "mrr_10": np.mean([1 / place if place <= 10 else 0 for place in places])}


@pytest.mark.parametrize("size", [90, 17, 1])
def test_retrieval_is_a_search_over_everything_whatever_the_blocks(size: int) -> None:
    made = pairs()
    blocks = blocks_of(made, size)
    for found, width in zip(retrieval(lambda: blocks, [None, 3]), [None, 3]):
        assert found == pytest.approx(naive(made, width))


def test_vectors_that_are_all_alike_find_nothing() -> None:
    made = pairs()
    made["vectors"] = np.ones_like(made["vectors"])
    (found,) = retrieval(lambda: blocks_of(made, 30))
    assert found["recall_1"] == found["recall_5"] == found["mrr_10"] == 0


def test_no_pairs_give_no_scores() -> None:
    assert retrieval(list) == [{}]


def test_correlation() -> None:
    rng = np.random.default_rng(1)
    cosines, scores = rng.normal(size=50), rng.integers(0, 5, 50)
    found = correlation(cosines, scores)
    assert found["spearman"] == pytest.approx(stats.spearmanr(cosines, scores).statistic)
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, scores)[0, 1])
    assert correlation(cosines, np.ones(50)) == correlation(cosines[:1], scores[:1]) == {}


def test_uniformity_is_a_mean_over_pairs() -> None:
    vectors = shortened(np.random.default_rng(2).normal(size=(6, 4)), None)
    total, num = uniformity(vectors)
    expected = [np.exp(-2 * ((vectors[i] - vectors[j]) ** 2).sum()) for i in range(6) for j in range(i)]
    assert num == len(expected)
    assert total == pytest.approx(sum(expected), rel=1e-5)
