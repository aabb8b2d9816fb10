"""What the rows of a preference task say: pairs or judged answers, and whether a loss can learn from them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault
from llmtune.data.forms.preference_rows import NAMING
from llmtune.task.preference_encoding import OTHER, VERDICT, first_answers, mismatched, preferences, prompt_key
from llmtune.task.ranking_negatives import with_column

if TYPE_CHECKING:
    from llmtune.data.rows import RawSplits


def read_preferences(raw: RawSplits, loss: str) -> tuple[dict[str, dict[str, Any]], str]:
    """For each split how many rows are of which form, and the form of train, else of the first split: pairs or judged.

    What a label says, and for KTO an answer to another prompt, stand beside each row of `raw` from now on.

    Raises:
        DataError, ConfigError: rows of which nothing can be learnt, or that the loss can't learn from.
    """
    facts, forms = {}, {}
    for split, rows in raw.splits.items():
        pairs, verdicts, prompts = 0, [], array("Q")
        for one in preferences(rows):
            pairs += len(one.answers) == 2
            verdicts.append(one.desirable)
            if loss == "kto":
                prompts.append(prompt_key(one.prompt))
        forms[split] = "pairs" if pairs else "judged"
        unknown = verdicts.count(None) - pairs
        if unknown:
            raise DataError(
                Fault(f"data.{split}", f"{unknown} of {len(rows)} rows have one answer and no label that says whether "
                      "it is wanted", "", f"type data.columns.label=COLUMN, or {NAMING}")
            )  # fmt: skip
        if split == "train":
            _refuse_loss(loss, pairs, verdicts)
        raw.splits[split] = with_column(rows, VERDICT, verdicts)
        if loss == "kto":
            others = first_answers(rows, mismatched(prompts))
            raw.splits[split] = with_column(raw.splits[split], OTHER, others)
        counts = {"pairs": pairs, "desirable": verdicts.count(True), "undesirable": verdicts.count(False)}
        facts[split] = {"counts": {name: count for name, count in counts.items() if count}}
    return facts, forms["train"] if "train" in forms else next(iter(forms.values()))


def _refuse_loss(loss: str, pairs: int, verdicts: Sequence[bool | None]) -> None:
    """Raises ConfigError or DataError where train has not what the loss asks for."""
    if loss != "kto" and pairs < len(verdicts):
        raise ConfigError(
            Fault("task.loss", f"{loss}, and {len(verdicts) - pairs} of {len(verdicts)} rows of train have one answer "
                  "and no other to compare it with", "kto learns from answers with a label true or false",
                  f"type task.loss=kto, or {NAMING}")
        )  # fmt: skip
    if not pairs and len(set(verdicts)) < 2:
        word = str(verdicts[0]).lower()
        raise DataError(Fault("data.train", f"every label is {word}: there is nothing to tell apart"))


def refuse_single(split: str, sizes: Sequence[int]) -> None:
    """Raises DataError for rows of a reward model that have no answer to compare with: `sizes`, answers of each."""
    single = sum(size < 2 for size in sizes)
    if single:
        raise DataError(
            Fault(f"data.{split}", f"{single} of {len(sizes)} rows have one answer and no other to compare it with",
                  "pairs of a chosen and a rejected answer", f"type {NAMING}")
        )  # fmt: skip
