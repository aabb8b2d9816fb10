"""Hydra's launchers for `llmtune ... -m`: a process for each job, or this process for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from llmtune.sweeping.jobs import Job

for _name, _class in (("llmtune_process", "ProcessLauncher"), ("llmtune_here", "HereLauncher")):
    ConfigStore.instance().store(
        group="hydra/launcher",
        name=_name,
        node={"_target_": f"hydra_plugins.llmtune_plugins.launcher.{_class}"},
        provider="llmtune",
    )


class ProcessLauncher(Launcher):
    """`python -m llmtune train ...` for each job, `sweep.jobs` at a time, in one sweep folder."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing is needed: a job is its lines."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Raises SystemExit with the exit code of the sweep."""
        from llmtune.sweeping.sweep import run_sweep

        raise SystemExit(run_sweep(cast("Sequence[Job]", job_overrides)))


class HereLauncher(Launcher):
    """Calls the task with each job's config, one after another; nothing is written."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Raises SystemExit with the largest exit code of the jobs, or UserError with what is wrong in any of them."""
        from llmtune.core.errors import Fault, UserError

        codes = [0]
        faults: dict[str, Fault | str] = {}
        for job in cast("Sequence[Job]", job_overrides):
            print(f"--- # job {job.number}: {job.label or 'nothing varies'}", flush=True)
            try:
                codes.append(int(self.task(OmegaConf.create(job.plain)) or 0))
            except UserError as error:
                faults.update((str(fault), fault) for fault in error.faults)
        if faults:
            raise UserError(*faults.values())
        raise SystemExit(max(codes))
