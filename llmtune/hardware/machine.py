"""The machine: device, precision, processes; accelerate serves below, its loaders and resume are left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from llmtune.config.settings import HardwareSettings
from llmtune.core.errors import ConfigError, Fault

ACCELERATE_WORDS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def pick_device(settings: HardwareSettings) -> str:
    """cpu, cuda or mps; what `auto` finds.

    Raises:
        ConfigError: an explicit one is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if settings.device == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[settings.device]:
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise ConfigError(
            Fault("hardware.device", f"{settings.device} is not there", f"this machine has: {found}",
                  "hardware.device=auto")
        )  # fmt: skip
    return settings.device


def pick_precision(settings: HardwareSettings, device: str) -> str:
    """fp32, bf16 or fp16; `auto` takes bf16 where the device computes it natively, else fp32.

    Raises:
        ConfigError: an explicit one that the device can't do, or only by slow emulation.
    """
    can = {"fp32"} | ({"fp16"} if device == "cuda" else set())
    if device == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        can.add("bf16")
    if device == "cpu" and cpu_has_bf16():
        can.add("bf16")
    if settings.precision == "auto":
        return "bf16" if device == "cuda" and "bf16" in can else "fp32"
    if settings.precision not in can:
        raise ConfigError(
            Fault("hardware.precision", f"{settings.precision} on this {device} would be emulated or fail",
                  f"it can: {', '.join(sorted(can))}", "hardware.precision=auto")
        )  # fmt: skip
    return settings.precision


def cpu_has_bf16() -> bool:
    """Does this CPU compute bf16 itself (AVX512-BF16, AMX or ARM's BF16)? Emulated, it is about 100 times slower."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


class Machine:
    """One process's view of the hardware."""

    def __init__(self, settings: HardwareSettings):
        self.settings = settings
        self.device_name = pick_device(settings)
        self.precision = pick_precision(settings, self.device_name)
        self.accelerator = Accelerator(cpu=self.device_name == "cpu", mixed_precision=ACCELERATE_WORDS[self.precision])
        self.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self._set_threads()
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)

    def _set_threads(self) -> None:
        if self.device_name == "cpu":
            threads = self.settings.threads
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // self.world) if threads == "auto" else int(threads))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, find_unused: bool) -> tuple[Any, Any]:
        """Move to the device; wrap for mixed precision and several processes.

        `find_unused`: some trainable parameters get no gradient in some step (a policy that changes, a part of the
        model that the task leaves out).
        """
        if self.world > 1:
            from accelerate.utils import DistributedDataParallelKwargs

            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=find_unused)
        return self.accelerator.prepare(module, optimizer)

    def unwrap(self, module: nn.Module) -> nn.Module:
        return self.accelerator.unwrap_model(module, keep_torch_compile=False)

    def add_up(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        if self.world == 1:
            return values
        summed = self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum")
        return summed.tolist()

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, rank by rank."""
        return items if self.world == 1 else gather_object(items)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode(), self.accelerator.autocast():
            yield

    def peak_memory(self) -> int:
        """Bytes: of the GPU's allocator, else of the process's resident set."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def describe(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device_name
        return {"device": self.device_name, "name": name, "precision": self.precision, "processes": self.world,
                "threads": torch.get_num_threads()}  # fmt: skip
