"""No network, and nothing left behind: environment, threads and random state are put back after each test."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost", "")
KEPT_APART = ("PYTEST_CURRENT_TEST", "LLMTUNE_CACHE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokenised rows of the tests go here, not into the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LLMTUNE_CACHE"] = str(folder)
    yield folder
    del os.environ["LLMTUNE_CACHE"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test reached for the network: {address}")
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Environment and, where torch is loaded, its threads and random state are put back."""
    import signal
    import sys

    before = dict(os.environ)
    cwd = os.getcwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    torch = sys.modules.get("torch")
    state = (torch.get_num_threads(), torch.random.get_rng_state()) if torch else None
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.chdir(cwd)
    for key in set(os.environ) - set(before) - set(KEPT_APART):
        del os.environ[key]
    for key, value in before.items():
        if os.environ.get(key) != value and key not in KEPT_APART:
            os.environ[key] = value
    if state:
        torch.set_num_threads(state[0])
        torch.random.set_rng_state(state[1])
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets, from LLMTUNE_DATA."""
    folder = os.environ.get("LLMTUNE_DATA")
    if not folder:
        pytest.skip("LLMTUNE_DATA is not set: it names a folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm() -> str:
    """A folder with all-MiniLM-L6-v2, from LLMTUNE_MINILM."""
    folder = os.environ.get("LLMTUNE_MINILM")
    if not folder:
        pytest.skip("LLMTUNE_MINILM is not set: it names a folder with all-MiniLM-L6-v2")
    return folder
