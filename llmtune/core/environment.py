"""What must stand in the environment before heavy libraries are imported."""

from __future__ import annotations

import os
import warnings

FOREIGN = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_BACKEND")


def set_environment(*, offline: bool) -> list[str]:
    """Quiet libraries, no reports to the outside, no network if `offline`; names of foreign settings taken out.

    accelerate would obey variables that another trainer left behind; here config alone decides.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    return [name for name in FOREIGN if os.environ.pop(name, None) is not None]
