"""What Hydra and OmegaConf say when a config can't be composed, in the words of llmtune."""

from __future__ import annotations

import os
import re

from llmtune.config.locate import short
from llmtune.config.typed import yaml_words
from llmtune.core.errors import Fault, did_you_mean


def explain(error: BaseException) -> Fault:
    """One fault for an exception of composition: a file that is no YAML, a choice that is not there, a bad value."""
    import yaml
    from hydra.errors import MissingConfigException

    for cause in _causes(error):
        if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark:
            return Fault(short(os.path.realpath(cause.problem_mark.name)), yaml_words(cause))
        if isinstance(cause, UnicodeDecodeError):
            return Fault("config", "a YAML file is not written in UTF-8", "", "save it as UTF-8")
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file and cause.options:
            group, _, option = cause.missing_cfg_file.rpartition("/")
            where = re.match(r"In '([^']+)'", str(cause))
            place = f" ({where[1]}.yaml)" if where and where[1] != "train" else ""
            return Fault(group, f"there is no option '{option}'{place}", f"allowed: {', '.join(cause.options)}",
                         did_you_mean(option, cause.options))  # fmt: skip
    lines = [str(cause).strip().partition("\n")[0].rstrip(".") for cause in _causes(error)]
    return Fault("config", "; ".join(dict.fromkeys(filter(None, lines))) or type(error).__name__)


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
