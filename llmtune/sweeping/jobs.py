"""The jobs of a sweep: the product of all values that stand with commas, each composed and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from llmtune.config.check import Check
from llmtune.config.compose import composed
from llmtune.config.locate import option_files, search_dirs
from llmtune.config.settings import Config
from llmtune.config.stored import plain
from llmtune.config.typed import Arguments, Setting, read_value
from llmtune.core.errors import ConfigError, Fault
from llmtune.run.rundir import MAY_DIFFER, fingerprint


@dataclass(frozen=True, eq=False)
class Job(Sequence[str]):
    """One training run of a sweep: the lines that one would type for it, which is what Hydra's launchers take."""

    number: int
    lines: tuple[str, ...]
    flags: tuple[str, ...]
    """`--config-dir DIR` for each folder of the user's own"""
    swept: dict[str, str]
    """key -> text of what varies"""
    config: Config
    plain: dict[str, Any]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.lines[index]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def label(self) -> str:
        return label_of(self.swept)

    @property
    def identity(self) -> str:
        """The same for jobs that compute the same, however they were typed.

        Settings that a resumed run may change (how long, where) count only where the sweep varies them.
        """
        loose = {key: text for key, text in self.swept.items() if _may_differ(key)}
        return hashlib.sha256(json.dumps([fingerprint(self.plain), loose], sort_keys=True).encode()).hexdigest()[:16]


def label_of(swept: dict[str, str]) -> str:
    return " ".join(f"{key}={text}" for key, text in swept.items())


def _may_differ(key: str) -> bool:
    return any(f"{key}.".startswith(f"{loose}.") for loose in MAY_DIFFER)


def checked_jobs(settings: Sequence[Setting], config_dirs: Sequence[str] = ()) -> list[Job]:
    """Every job of the grid, each one once. Raises ConfigError with all faults of all jobs, before anything is made."""
    faults = _Faults()
    combinations = expand(settings, search_dirs(config_dirs), faults)
    faults.add(None, _refused(combinations))
    checks: list[Check] = []
    for number, combination in enumerate(combinations):
        try:
            composition = composed(Arguments(list(combination), list(config_dirs)))
        except ConfigError as error:
            faults.add(number, error.faults)
        else:
            checks.append(Check(composition.cfg, composition.origin, composition.faults))
            faults.add(number, checks[-1].faults)
    faults.finish(len(combinations))
    configs: list[Config] = []
    for number, check in enumerate(checks):  # only now are parts imported that load torch
        try:
            configs.append(check.build())
        except ConfigError as error:
            faults.add(number, error.faults)
    faults.finish(len(combinations))
    return _distinct(combinations, configs, config_dirs)


def _distinct(
    combinations: Sequence[tuple[Setting, ...]], configs: Sequence[Config], config_dirs: Sequence[str]
) -> list[Job]:
    """The jobs, numbered; of several that compute the same, the first."""
    texts: dict[str, set[str]] = {}
    for setting in itertools.chain.from_iterable(combinations):
        texts.setdefault(setting.key, set()).add(setting.text)
    dirs = [folder for folder in config_dirs if os.path.realpath(folder) != os.path.realpath("conf")]
    flags = tuple(word for folder in dirs for word in ("--config-dir", folder))
    jobs: dict[str, Job] = {}
    for combination, config in zip(combinations, configs, strict=True):
        swept = {setting.key: setting.text for setting in combination if len(texts[setting.key]) > 1}
        lines = tuple(setting.line for setting in combination)
        job = Job(len(jobs), lines, flags, swept, config, plain(config))
        jobs.setdefault(job.identity, job)
    return list(jobs.values())


def expand(settings: Sequence[Setting], dirs: Sequence[str], faults: _Faults) -> list[tuple[Setting, ...]]:
    """The settings of each job, the last key typed varying fastest. Of a key set twice, the later counts."""
    axes: dict[str, list[Setting]] = {}
    for setting in settings:
        axes.pop(setting.key, None)
        try:
            axes[setting.key] = values(setting, dirs)
        except ConfigError as error:
            faults.add(None, error.faults)
    return list(itertools.product(*axes.values()))


def values(setting: Setting, dirs: Sequence[str]) -> list[Setting]:
    """A setting for each value that `setting` asks for: `1,2,3`, `range(1,4)`, `glob(*)` of a group's options.

    Hydra's grammar decides; what it can't read (Chinese, `;`) is parted at its commas. Raises ConfigError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, ValueType
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={setting.text}")
    except HydraException:
        texts = [text.strip() for text in setting.text.split(",")]
        if not all(texts) or re.search(r"""["'(\[{]""", setting.text):
            return [setting]
        return [dataclasses.replace(setting, value=read_value(text), text=text) for text in texts]
    if not override.is_sweep_override():
        return [setting]
    if not override.is_discrete_sweep():
        allowed = "a grid takes values with commas, range(1,4) or glob(*)"
        raise ConfigError(Fault(setting.key, f"{setting.text} names no values", allowed))
    found = override.value()
    if isinstance(found, Glob):
        texts = found.filter(sorted(option_files(setting.key, dirs)))
        if not texts:
            raise ConfigError(Fault(setting.key, f"{setting.text} fits no option", "", f"llmtune ls {setting.key}"))
    else:
        texts = list(override.sweep_string_iterator())
    typed = [text.strip() for text in setting.text.split(",")]
    if override.value_type is ValueType.SIMPLE_CHOICE_SWEEP and len(typed) == len(texts):
        texts = typed  # Hydra would write 1e-5 as 1e-05
    return [dataclasses.replace(setting, value=read_value(text), text=text) for text in texts]


def _refused(combinations: Sequence[Sequence[Setting]]) -> list[Fault]:
    """Settings that make no sense for several jobs."""
    faults = {}
    seen: dict[str, str] = {}
    for setting in itertools.chain.from_iterable(combinations):
        key = setting.key
        if key == "run.dir" and setting.value is not None:
            faults[key] = Fault(key, "every job of a sweep has a folder of its own", "", "type sweep.dir=DIR")
        if key == "resume" and setting.value not in (None, "auto"):
            faults[key] = Fault(key, "a sweep goes on by itself", "", "type the sweep.dir of the first time")
        if key.startswith("sweep.") and seen.setdefault(key, setting.text) != setting.text:
            faults[key] = Fault(key, "several values were given", "belongs to the whole sweep", f"type {key}=VALUE")
    return list(faults.values())


class _Faults:
    """Faults of all jobs: what all jobs have is said once, what some have with their numbers."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Fault | str, set[int | None]]] = {}

    def add(self, number: int | None, faults: Sequence[Fault | str]) -> None:
        """`number` None: of the whole sweep."""
        for fault in faults:
            self.found.setdefault(str(fault), (fault, set()))[1].add(number)

    def finish(self, num_jobs: int) -> None:
        """Raises ConfigError if there are any."""
        if self.found:
            raise ConfigError(*(_told(fault, numbers, num_jobs) for fault, numbers in self.found.values()))


def _told(fault: Fault | str, numbers: set[int | None], num_jobs: int) -> Fault | str:
    if len(numbers) == num_jobs or None in numbers or isinstance(fault, str):
        return fault
    ordered = sorted(number for number in numbers if number is not None)
    shown = ", ".join(map(str, ordered[:4])) + ("..." if len(ordered) > 4 else "")
    jobs = f"job {shown}" if len(ordered) == 1 else f"jobs {shown}"
    return dataclasses.replace(fault, given=f"{fault.given} ({jobs} of {num_jobs})")
