"""The main job against simple rivals: test accuracy on the shipped reviews, three seeds.

    python scripts/bench_reviews.py

Prints the majority rate, a bag-of-words logistic regression, and `llmtune train task=sentiment`, each of whose runs
is timed from command to exit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

REVIEWS = Path(__file__).parents[1] / "llmtune" / "samples" / "reviews"
SEEDS = (1, 2, 3)


def rows(split: str) -> tuple[list[str], list[str]]:
    lines = [json.loads(line) for line in (REVIEWS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["text"] for line in lines], [line["label"] for line in lines]


def llmtune(seed: int) -> tuple[float, float, float]:
    """Test accuracy, majority rate, seconds from command to exit."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        words = [sys.executable, "-m", "llmtune", "train", "task=sentiment", f"seed={seed}", f"run.dir={run}"]
        subprocess.run(words, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        result = json.loads((run / "result.json").read_text())
    return result["test"]["accuracy"], result["majority"], seconds


def main() -> None:
    train, test = rows("train"), rows("test")
    for name, vectors in (("counts", CountVectorizer()), ("tf-idf", TfidfVectorizer())):
        model = make_pipeline(vectors, LogisticRegression(max_iter=2000)).fit(*train)
        print(f"bag of words ({name}), logistic regression: {model.score(*test):.4f}")
    found = [llmtune(seed) for seed in SEEDS]
    print(f"majority: {found[0][1]:.4f}")
    scores = ", ".join(f"{accuracy:.4f}" for accuracy, _, _ in found)
    print(f"llmtune: median {statistics.median(accuracy for accuracy, _, _ in found):.4f} of {scores}")
    print(f"seconds from command to exit: {', '.join(f'{seconds:.1f}' for _, _, seconds in found)}")


if __name__ == "__main__":
    main()
