"""What the rows of a preference task say: pairs or judged answers, and whether a loss can learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault
from llmtune.data.preference_rows import NAMING, Preference
from llmtune.task.preference_encoding import OTHER, VERDICT, mismatched, preferences
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
        found = preferences(rows)
        pairs = sum(len(one.answers) == 2 for one in found)
        forms[split] = "pairs" if pairs else "judged"
        verdicts = [one.desirable for one in found]
        unknown = verdicts.count(None) - pairs
        if unknown:
            raise DataError(
                Fault(f"data.{split}", f"{unknown} of {len(found)} rows have one answer and no label that says whether "
                      "it is wanted", "", f"type data.columns.label=COLUMN, or {NAMING}")
            )  # fmt: skip
        if split == "train":
            _refuse_loss(loss, pairs, found)
        raw.splits[split] = with_column(rows, VERDICT, verdicts)
        if loss == "kto":
            raw.splits[split] = with_column(raw.splits[split], OTHER, mismatched(found))
        counts = {"pairs": pairs, "desirable": verdicts.count(True), "undesirable": verdicts.count(False)}
        facts[split] = {"counts": {name: count for name, count in counts.items() if count}}
    return facts, forms["train"] if "train" in forms else next(iter(forms.values()))


def _refuse_loss(loss: str, pairs: int, found: Sequence[Preference]) -> None:
    """Raises ConfigError or DataError where train has not what the loss asks for."""
    if loss != "kto" and pairs < len(found):
        raise ConfigError(
            Fault("task.loss", f"{loss}, and {len(found) - pairs} of {len(found)} rows of train have one answer and "
                  "no other to compare it with", "kto learns from answers with a label true or false",
                  f"type task.loss=kto, or {NAMING}")
        )  # fmt: skip
    if not pairs and len({one.desirable for one in found}) < 2:
        word = str(found[0].desirable).lower()
        raise DataError(Fault("data.train", f"every label is {word}: there is nothing to tell apart"))


def refuse_single(split: str, sizes: Sequence[int]) -> None:
    """Raises DataError for rows of a reward model that have no answer to compare with: `sizes`, answers of each."""
    single = sum(size < 2 for size in sizes)
    if single:
        raise DataError(
            Fault(f"data.{split}", f"{single} of {len(sizes)} rows have one answer and no other to compare it with",
                  "pairs of a chosen and a rejected answer", f"type {NAMING}")
        )  # fmt: skip
