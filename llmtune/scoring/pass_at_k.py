"""The share of problems that are solved by at least one of k programs (pass@k), estimated without bias.

Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), equation 1.
"""

from __future__ import annotations

import math


def pass_at_k(num_programs: int, num_passed: int, k: int) -> float:
    """Probability that of `k` programs, drawn from `num_programs` of which `num_passed` passed, one at least did.

    Raises:
        ValueError: fewer programs than k.
    """
    if k > num_programs:
        raise ValueError(f"pass@{k} of {num_programs} programs")
    return 1.0 - math.comb(num_programs - num_passed, k) / math.comb(num_programs, k)
