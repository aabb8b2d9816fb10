"""Which GPUs are seen and how they are shared; no GPU is needed."""

from __future__ import annotations

import pytest

from llmtune.sweeping.gpus import GpuShares, listed_ids, visible_gpus

LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb)
  MIG 1g.18gb     Device  0: (UUID: MIG-cccc)
  MIG 1g.18gb     Device  1: (UUID: MIG-dddd)
"""


def test_slices_stand_for_the_gpu_that_is_cut_up():
    assert listed_ids(LISTED) == ["GPU-aaaa", "MIG-cccc", "MIG-dddd"]


@pytest.mark.parametrize(("value", "ids"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-x", ["GPU-x"])])
def test_what_the_environment_allows_counts(monkeypatch, value, ids):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == ids


def test_no_driver_no_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def test_the_least_used_gpu_comes_first():
    shares = GpuShares(["a", "b"])
    assert shares.take(1) == ["a"]
    assert shares.take(1) == ["b"]
    shares.give_back(["b"])
    assert shares.take(1) == ["b"]
    assert shares.take(1) == ["a"]
    assert shares.take(4) == ["b", "a"]


def test_without_gpus_nothing_is_given():
    assert GpuShares([]).take(2) == []
