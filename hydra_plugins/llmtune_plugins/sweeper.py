"""Hydra's sweeper for `llmtune ... -m`: all jobs composed and checked before the launcher gets the first."""

from __future__ import annotations

import re
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

FOREIGN = re.compile(r"[+~]*hydra\.(sweep|run)\.")

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="llmtune_grid",
    node={"_target_": "hydra_plugins.llmtune_plugins.sweeper.GridSweeper"},
    provider="llmtune",
)


class GridSweeper(Sweeper):
    """The product of all values that stand with commas."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Raises ConfigError with all faults of all jobs, and what the launcher raises."""
        from llmtune.config.compose import typed_setting
        from llmtune.core.errors import ConfigError, Fault
        from llmtune.sweeping.jobs import checked_jobs

        assert self.config is not None
        assert self.launcher is not None
        foreign = [str(line) for line in self.config.hydra.overrides.hydra if FOREIGN.match(str(line))]
        if foreign:
            raise ConfigError(*(Fault(line, "is Hydra's own folder", "", "type sweep.dir=DIR") for line in foreign))
        GlobalHydra.instance().clear()  # the line of a sweep is composed; from here on it is each job's turn
        dirs = [str(folder).removeprefix("file://") for folder in self.config.hydra.searchpath]
        jobs = checked_jobs([typed_setting(line) for line in arguments], dirs)
        return self.launcher.launch(jobs, initial_job_idx=0)
