"""What is said of rows whose answers can't be learnt as they are."""

from __future__ import annotations

from collections.abc import Sequence

from llmtune.core.errors import DataError, Fault


def empty_answers(places: Sequence[str]) -> DataError:
    """`places`: `file:line` of each."""
    given = "nothing of it is to be written: the answer is empty"
    fix = "data.on_unsupervised=drop leaves such rows out"
    return DataError(*(Fault(place, given, "data.on_unsupervised=error", fix) for place in places))


def long_answers(places: Sequence[str], lengths: Sequence[int], most: int) -> DataError:
    """Answers of more than `task.max_target_tokens`."""
    fix = "a larger one, or data.on_overlength=drop leaves such rows out"
    return DataError(*(
        Fault(place, f"the answer has {length} tokens", f"task.max_target_tokens={most}", fix)
        for place, length in zip(places, lengths)
    ))  # fmt: skip


def uncut_answers(places: Sequence[str], lengths: Sequence[int], most: int) -> DataError:
    """Rows of so many tokens although all that may be lost of them was cut; `places`: of the first of them."""
    rows = [
        Fault(place, f"the answer is too long to be kept whole: {length} tokens with what can't be left out")
        for place, length in zip(places, lengths)
    ]
    given = f"{most}, and {len(lengths)} row(s) of those looked at so far need more, the longest {max(lengths)} tokens"
    fix = f"data.max_tokens={max(lengths)} if the model can, or data.on_overlength=drop"
    return DataError(*rows, Fault("data.max_tokens", given, "", fix))
