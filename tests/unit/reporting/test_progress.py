"""What is printed while a run goes on."""

from __future__ import annotations

from llmtune.reporting.progress import evaluation_line

RECORD = {"step": 4, "loss": 0.62, "best_step": None, "best_score": None, "seconds": 0.1}


def test_a_loss_that_decides_is_told_once() -> None:
    assert evaluation_line({**RECORD, "metric": "loss", "score": 0.62}).count("0.6200") == 1
    line = evaluation_line({**RECORD, "metric": "accuracy", "score": 0.5})
    assert "accuracy 0.5000, loss 0.6200" in line
