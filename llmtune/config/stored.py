"""The config of a run folder: written as plain YAML, read again without Hydra and without any interpolation."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from llmtune.config.check import checked
from llmtune.config.origin import Layer, Origin
from llmtune.config.secrets import redacted
from llmtune.config.settings import Config
from llmtune.config.tree import leaves
from llmtune.config.typed import yaml_words
from llmtune.core.errors import ConfigError, Fault


def plain(config: Config) -> dict[str, Any]:
    """The whole config as plain dicts and lists, secrets hidden: what `config.yaml` of a run folder holds."""
    return redacted(dataclasses.asdict(config))


def load_config(path: str | os.PathLike[str]) -> Config:
    """The checked config of a run folder, or of its `config.yaml`. Raises ConfigError."""
    file = os.path.join(path, "config.yaml") if os.path.isdir(path) else os.fspath(path)
    content = _read(file)
    foreign = [
        Fault(f"{file}: {key}", f"holds an interpolation, {value!r}", "a stored config holds plain values only")
        for key, value in leaves(content)
        if isinstance(value, str) and "${" in value
    ]
    if foreign:
        raise ConfigError(*foreign)
    return checked(content, Origin([Layer(file, "")]))


def _read(file: str) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with open(file, encoding="utf-8") as text:
            content = OmegaConf.to_container(OmegaConf.create(text.read()), resolve=False)
    except OSError as error:
        raise ConfigError(Fault(file, f"can't be read: {error.strerror}", "", "give the folder of a run")) from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(Fault(file, yaml_words(error))) from error
    if not isinstance(content, dict):
        raise ConfigError(Fault(file, "holds no config", "", "give the folder of a run"))
    return {str(key): value for key, value in content.items()}
