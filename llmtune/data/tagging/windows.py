"""Long rows as windows that overlap: no word is lost, and no entity is cut in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise


def cut_windows(
    sizes: Sequence[int], room: int | None, *, overlap: int, together: int
) -> list[tuple[int, int]]:  # fmt: skip
    """Windows over words as (first word, word after the last).

    Each has at most `room` pieces (None: all in one) and goes as far as it can. The next one goes back over at least
    `overlap` pieces (at most half of `room`) and `together` words (at most half of the window's), so that so many
    words in a row lie whole in one of them, and no text becomes more windows than twice what it fills.

    Args:
        sizes: number of pieces of each word, none above `room`.
    """
    ends = [0, *accumulate(sizes)]
    total = len(sizes)
    if room is None or ends[-1] <= room:
        return [(0, total)]
    overlap = min(overlap, room // 2)
    windows: list[tuple[int, int]] = []
    first = 0
    while True:
        stop = first
        while stop < total and ends[stop + 1] - ends[first] <= room:
            stop += 1
        windows.append((first, stop))
        if stop == total:
            return windows
        back = stop
        while back > first + 1 and ends[stop] - ends[back] < overlap:
            back -= 1
        first = max(first + 1, min(back, stop - min(together, (stop - first) // 2)))


def owners(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each window the words that are read in it, each word in the window where it has most context.

    Context is the number of words on the side that has fewer; between equals the earlier window.
    """
    bounds = [0]
    for (_, stop), (first, _) in pairwise(windows):
        # word k has stop - 1 - k words behind it in the one, k - first before it in the other
        middle = (first + stop - 1) // 2 + 1
        bounds.append(max(bounds[-1], min(max(middle, first), stop)))
    bounds.append(windows[-1][1])
    return list(pairwise(bounds))
