"""What must stand in the environment before heavy libraries are imported."""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Iterable
from urllib.parse import urlsplit

FOREIGN = (
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_USE_CPU",
)  # fmt: skip
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""of another program's processes: torchrun's, a cluster's; ours have LLMTUNE_MEETING beside them"""


HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(@\w+)?")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".gz", ".txt")
PATIENCE_S = 5.0


def on_a_hub(places: Iterable[str]) -> bool:
    """Is any of these a name on the hub: `name` or `owner/name`, no data file, nothing that exists here?"""
    return any(
        place.startswith("hub:")
        or (HUB_NAME.fullmatch(place) is not None and not place.endswith(FILES) and not os.path.exists(place))
        for place in places
    )


def hub_answers() -> bool:
    """Can the model hub be reached? Behind a proxy that is left to find out to the libraries.

    They would try six times over half a minute before they say no.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    hub = urlsplit(os.environ.get("HF_ENDPOINT", HUB))
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


def set_environment(*, offline: bool) -> list[str]:
    """Quiet libraries, no reports to the outside, no network if `offline`; names of foreign settings taken out.

    accelerate would obey variables that another trainer left behind; here config alone decides.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch on a CPU: huge pages
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    foreign = FOREIGN if "LLMTUNE_MEETING" in os.environ else (*FOREIGN, *RANKS)
    return [name for name in foreign if os.environ.pop(name, None) is not None]
