"""From a command line to a composed and checked config: Hydra puts the groups together, the rest is ours.

Hydra gets the choices of options only. Typed values are laid over what it composed, so that `check` sees all of them
and can name every fault at once, and so that a value needs no quoting for Hydra's grammar.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.config.check import Check, checked
from llmtune.config.explain import explain
from llmtune.config.locate import PRIMARY, conf_dir, config_file, option_files, search_dirs
from llmtune.config.origin import Layer, Origin
from llmtune.config.secrets import redacted
from llmtune.config.settings import Config
from llmtune.config.shipped import defaults
from llmtune.config.stored import plain
from llmtune.config.typed import Arguments, Setting, arrange, read_setting
from llmtune.core.errors import ConfigError, Fault, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

_typed: dict[str, Setting] = {}
"""of a sweep: a line for Hydra -> what was typed"""

Job = Callable[[Config, "DictConfig", list[str]], int]


@dataclass(frozen=True)
class Composition:
    cfg: DictConfig
    """the whole config without Hydra's own node, values as given"""
    origin: Origin
    choices: dict[str, Any]
    """group -> option, or list of options where several go together"""
    lines: list[str]
    """what was typed, recipes first, as it could be typed again"""
    faults: list[Fault | str]
    """of the command line; `checked(cfg, origin, faults)` adds its own"""


def run_job(word: str, argv: list[str], job: Job) -> int:
    """Compose the config that `argv` asks for, check it, and call `job(config, cfg, lines)`; its exit code.

    `cfg` is the checked config as a DictConfig (coerced, resolved, secrets hidden), `lines` what was typed. `--cfg job`
    prints the composed config instead, without importing torch; `-m` hands over to Hydra's sweeper. Raises ConfigError.
    """
    from omegaconf import OmegaConf

    arguments = arrange(argv)
    if arguments.multirun:
        return _multirun(word, arguments, job)
    composition = composed(arguments)
    if arguments.show:
        Check(composition.cfg, composition.origin, composition.faults).finish()
        return _shown(composition.cfg)
    config = checked(composition.cfg, composition.origin, composition.faults)
    return job(config, OmegaConf.create(plain(config)), composition.lines) or 0


def _shown(cfg: DictConfig) -> int:
    """Print a composed config as `--cfg job` does."""
    from omegaconf import OmegaConf

    sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(redacted(OmegaConf.to_container(cfg)))))  # type: ignore[arg-type]
    return 0


def composed(arguments: Arguments | Sequence[str]) -> Composition:
    """Compose without checking. Raises ConfigError only where Hydra can't compose at all."""
    if not isinstance(arguments, Arguments):
        arguments = arrange(arguments)
    dirs = search_dirs(arguments.config_dirs)
    faults: list[Fault | str] = []
    choices, values, hydra_lines = _sorted(arguments.settings, dirs, faults)
    try:
        cfg, chosen, layers = _hydra_composed([*choices, *hydra_lines, search_path(dirs)], dirs)
    except ConfigError as error:
        raise ConfigError(*faults, *error.faults) from error
    origin = Origin(layers, values)
    for setting in values:
        refused = _refused(setting, cfg)
        faults += refused or _laid(setting, cfg)
    return Composition(cfg, origin, chosen, [setting.line for setting in arguments.settings], faults)


def search_path(dirs: Sequence[str]) -> str:
    """Hydra's override that adds the user's folders behind the shipped one."""
    quoted = ",".join("'file://{}'".format(folder.replace("'", "\\'")) for folder in dirs[1:])
    return f"hydra.searchpath=[{quoted}]"


def _sorted(
    settings: Sequence[Setting], dirs: Sequence[str], faults: list[Fault | str]
) -> tuple[list[str], list[Setting], list[str]]:
    """Settings as (choices of options for Hydra, values, lines about Hydra itself)."""
    usual = defaults()
    lines: dict[str, str] = {}
    values, hydra_lines = [], []
    for setting in settings:
        if setting.key.split(".")[0].split("/")[0] == "hydra":
            hydra_lines.append(setting.line)
        elif setting.key in usual and not isinstance(setting.value, dict) and setting.sign != "~":
            wrong = _wrong_choice(setting, usual[setting.key], dirs)
            faults += wrong
            if not wrong and setting.value is not None:
                names = setting.value if isinstance(setting.value, list) else [setting.value]
                is_list = isinstance(setting.value, list) or isinstance(usual[setting.key], list)
                lines[setting.key] = f"{setting.key}=[{','.join(names)}]" if is_list else f"{setting.key}={names[0]}"
        elif setting.sign == "~":
            fix = f"type {setting.key}=null or another value"
            faults.append(Fault(f"~{setting.key}", "nothing can be taken out: every setting has a value", "", fix))
        else:
            values.append(setting)
    return list(lines.values()), values, hydra_lines


def _wrong_choice(setting: Setting, usual: Any, dirs: Sequence[str]) -> list[Fault]:
    """Faults of `group=option`."""
    group, value = setting.key, setting.value
    known = sorted(option_files(group, dirs))
    note = "" if setting.source == "typed" else f" ({setting.source})"
    allowed = f"allowed: {', '.join(known) or 'none yet'}"
    if setting.sign:
        return [Fault(f"{setting.sign}{setting.line}", "a choice needs no sign", "", f"type {setting.line}")]
    if value is None and usual is None:
        return []
    if isinstance(value, list) and not isinstance(usual, list):
        return [Fault(group, f"{setting.text} was given{note}", "takes one option", f"-m {group}=A,B tries several")]
    faults = []
    for name in value if isinstance(value, list) else [value]:
        if str(name) not in known:
            fix = did_you_mean(str(name), known)
            if "," in str(name):
                fix = (
                    f"type {group}=[{name}]"
                    if isinstance(usual, list)
                    else f"-m {group}={name} tries one after another"
                )
            given = "null" if name is None else f"'{name}'"
            faults.append(Fault(group, f"there is no option {given}{note}", allowed, fix))
    return faults


def _refused(setting: Setting, cfg: DictConfig) -> list[Fault]:
    """`+key` of a known key, and the name of an option set as if it were a value, are refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    group, _, name = setting.key.rpartition(".")
    if name == "name" and group.split(".")[0] in defaults():
        fix = f"type {group.split('.')[0]}={setting.text}"
        return [Fault(setting.key, "is chosen with the option, not set", "", fix)]
    if not setting.sign:
        return []
    try:
        known = OmegaConf.select(cfg, setting.key, default=setting) is not setting
    except OmegaConfBaseException:
        known = False
    fault = Fault(f"{setting.sign}{setting.line}", "a setting needs no sign", "", f"type {setting.line}")
    return [fault] if known else []


def _laid(setting: Setting, cfg: DictConfig) -> list[Fault]:
    """Put a typed value into `cfg`, whether or not its key is known: `check` judges it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.update(cfg, setting.key, setting.value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError, IndexError, AssertionError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [Fault(setting.key, f"{setting.text!r} can't be set: {words}")]
    return []


def hydra_version() -> dict[str, str]:
    """What Hydra's entry points want to hear about versions: 1.3 a base, 1.4 nothing."""
    import hydra

    return {"version_base": "1.3"} if "execution_whitelist" not in inspect.signature(hydra.main).parameters else {}


def _hydra_composed(lines: list[str], dirs: Sequence[str]) -> tuple[DictConfig, dict[str, Any], list[Layer]]:
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(conf_dir(), job_name="llmtune", **hydra_version()):
            cfg = compose(PRIMARY, lines, return_hydra_config=True)
            merged = GlobalHydra.instance().config_loader().compute_defaults_list(PRIMARY, lines, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(explain(error)) from error
    choices = {str(group): option for group, option in cfg.hydra.runtime.choices.items() if "hydra/" not in str(group)}
    paths = [entry.config_path or "" for entry in merged.defaults]
    for group in (group for group, usual in defaults().items() if isinstance(usual, list)):
        choices[group] = [path.removeprefix(f"{group}/") for path in paths if path.startswith(f"{group}/")]
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.set_struct(cfg, False)
    files = ((config_file(entry.config_path or "", dirs), entry.package or "") for entry in merged.defaults)
    return cfg, choices, [Layer(file, package) for file, package in files if file]


def _multirun(word: str, arguments: Arguments, job: Job) -> int:
    """Hand the line to Hydra with our sweeper and launcher (hydra_plugins/llmtune_plugins); the exit code.

    Training jobs get a process each; `check` and `--cfg job` go through all jobs in this one.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def task(cfg: DictConfig) -> int:
        if arguments.show:
            return _shown(cfg)
        config = checked(cfg)
        return job(config, OmegaConf.create(plain(config)), []) or 0

    launcher = "process" if word == "train" and not arguments.show else "here"
    lines = [
        "hydra/sweeper=llmtune_grid",
        f"hydra/launcher=llmtune_{launcher}",
        *(_sweep_line(setting) for setting in arguments.settings),
        search_path(search_dirs(arguments.config_dirs)),
        f"hydra.job.name={word}",
    ]
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"llmtune {word}", "-m", *lines]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving
    try:
        hydra.main(config_path=conf_dir(), config_name=PRIMARY, **hydra_version())(task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
    return 0


def _sweep_line(setting: Setting) -> str:
    """A setting for Hydra's own grammar, handed over as a sweep even where it has one value.

    Hydra leaves sweeps to the sweeper and composes none of them, so that all faults of all jobs come at once.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, text = setting.key, setting.text
    is_hydra = key.split(".")[0].split("/")[0] == "hydra"
    try:
        if is_hydra or OverridesParser.create().parse_override(f"key={text}").is_sweep_override():
            value = text
        else:
            value = f"choice({text})"
            OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        value = "choice('" + text.replace("\\", "/").replace("'", "") + "')"  # read again from `_typed`, not from here
    line = f"{'' if is_hydra or key in defaults() else '++'}{key}={value}"
    _typed[line] = setting
    return line


def typed_setting(line: str) -> Setting:
    """The setting behind a line of Hydra's sweep: for a sweeper, which sees what `_sweep_line` made."""
    return _typed.get(line) or read_setting(line)
