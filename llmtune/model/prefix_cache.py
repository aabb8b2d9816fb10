"""The frozen-prefix cache: what a frozen bottom puts out is computed once per row, and read ever after.

The states of a row are those of its first forward pass, to the bit, in the step that computes them and in all later
ones. Only the `clean` view of untouched rows is kept; which rows a batch has is said by its feed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import nn

from llmtune.data.batches.feed import TokenTable
from llmtune.data.text.blocks import BlockTable
from llmtune.hardware.machine import Machine
from llmtune.model.layers import EMBEDDINGS, FINAL, LayerMap
from llmtune.model.prefix import Prefix, frozen_depth, lower_stack
from llmtune.model.prefix_plan import PrefixPlan
from llmtune.model.prefix_store import RowStore, allowed_bytes, entry_folder, open_entry
from llmtune.model.tensor_hashes import sha256_of

FORMAT = 1
PROBED = (0.0, 0.25, 0.5)
"""quantiles of length of the rows on which the prefix is proven"""


class Kept(NamedTuple):
    """The rows of a batch in the cache."""

    prefix: Prefix
    store: RowStore
    rows: np.ndarray

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the backbone takes the prefix's output from the store; what is not there is computed and kept."""
        there_B = self.store.has(self.rows)
        if there_B.all():
            tokens = int(self.store.lengths[self.rows].max())
            hidden_BTD = self.store.read(self.rows, tokens).to(self.prefix.device, non_blocking=True)
            with self.prefix.passing(hidden_BTD):
                yield
            return

        def merge(hidden_BTD: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.store.write(self.rows[~there_B], hidden_BTD[torch.from_numpy(~there_B)])
                if there_B.any():
                    known_BTD = self.store.read(self.rows[there_B], hidden_BTD.shape[1])
                    hidden_BTD = hidden_BTD.clone()
                    hidden_BTD[torch.from_numpy(there_B)] = known_BTD.to(hidden_BTD.device)
            return hidden_BTD

        with self.prefix.recording(merge):
            yield


@dataclass(kw_only=True)
class PrefixCache:
    """Opens, for each depth that a freeze policy comes to, one store per table of rows; says why it is off."""

    plan: PrefixPlan
    model: nn.Module
    layers: LayerMap
    """of the network that holds the model"""
    network: nn.Module
    machine: Machine
    home: Path
    """folder of the entries, shared by all runs"""
    budget: float | str
    """train.prefix_cache_bytes"""
    key_parts: Mapping[str, Any]
    """what decides the states besides rows, weights and depth"""
    steps_of_change: Sequence[int]
    """at which the freeze policy may change, as far as that is known"""
    num_steps: int
    steps_per_epoch: int
    say: Callable[[str], None]
    tables: dict[str, TokenTable | BlockTable]
    """by split"""
    depth: int | None = None
    stores: dict[str, RowStore] = field(default_factory=dict)
    """by split, while the cache serves it"""
    _trainable: Collection[str] | None = None

    def turn(self, trainable: Collection[str], step: int) -> None:
        """Serve the depth at which the network is frozen now; nothing to do if that is the one before."""
        if not self.plan.wanted or trainable is self._trainable:
            return
        depth = frozen_depth(self.layers, trainable, len(lower_stack(self.model.base_model)))  # type: ignore[arg-type]
        if depth != self.depth:
            self.close()
        self._trainable = trainable
        if depth and depth != self.depth:
            ends = min((change for change in self.steps_of_change if change > step), default=self.num_steps)
            passes = (min(ends, self.num_steps) - step) / self.steps_per_epoch
            self._open(depth, pays=self.plan.pays(passes))
        self.depth = depth

    def add(self, split: str, table: TokenTable | BlockTable) -> None:
        """Serve another table of rows, if the cache is on at all."""
        self.tables[split] = table
        if self.stores:
            self._serve(self._prefix, {split: table}, pays=True)

    def flush(self) -> None:
        """Put all rows on the disk: a run that is gone on with from here finds them."""
        for store in self.stores.values():
            store.flush()

    def close(self) -> None:
        """Flush, and let go of everything; the backbone runs whole again."""
        for store in self.stores.values():
            store.close()
        for table in self.tables.values():
            table.keep = None
        self.stores, self.depth, self._trainable = {}, None, None

    # ---- opening ----

    def _open(self, depth: int, *, pays: bool) -> None:
        try:
            with self.machine.accelerator.autocast():
                self._prefix = Prefix(self.model, depth, self._probe())
        except ValueError as error:
            self._off(str(error))
            return
        self._key = {
            **self.key_parts, "format": FORMAT, "depth": depth, "weights": self._weights(depth),
            "dtype": str(self._prefix.dtype), "precision": self.machine.precision, "device": self.machine.device.type,
            "torch": torch.__version__, "transformers": transformers.__version__,
        }  # fmt: skip
        self._serve(self._prefix, self.tables, pays=pays)

    def _serve(self, prefix: Prefix, tables: Mapping[str, TokenTable | BlockTable], *, pays: bool) -> None:
        for split, table in tables.items():
            store = self._store(prefix, {**self._key, "split": split}, table.lengths, pays)
            if store is None:
                continue
            self.stores[split] = store
            table.keep = lambda rows, store=store: Kept(prefix, store, np.asarray(rows, dtype=np.int64))
            if store.num_damaged:
                self.say(f"prefix cache: {store.num_damaged} damaged rows of {split} are computed anew")
            if store.num_there:
                self.say(f"prefix cache: {store.num_there:,} of {len(table):,} rows of {split} are there already")
            if not store.writes:
                self.say(f"prefix cache: another run fills {split}; this one reads what is there")

    def _store(self, prefix: Prefix, key: dict[str, Any], lengths: np.ndarray, pays: bool) -> RowStore | None:
        """Opened by the first process, then by the others; None where it is not worth it or has no room."""
        if self.machine.is_main:
            store = None
            if pays or entry_folder(self.home, key).exists():
                try:
                    budget = allowed_bytes(self.budget, self.home)
                    store = open_entry(self.home, key, lengths, prefix.width, prefix.dtype, budget)
                except OSError as error:
                    self._off(f"rows of {key['split']}: {error}")
            self.machine.gather([store.writes if store else None])
            return store
        (writes, *_) = self.machine.gather([None])
        if writes is None:
            return None
        return RowStore(entry_folder(self.home, key), lengths, prefix.width, prefix.dtype, writes=writes)

    def _off(self, why: str) -> None:
        self.say(f"prefix cache: off: {why}")

    def _probe(self) -> dict[str, torch.Tensor]:
        """Inputs of a few rows of different lengths; not as many as they have tokens, so that axes can be told."""
        table = next(iter(self.tables.values()))
        by_length = np.argsort(table.lengths, kind="stable")
        rows = np.unique(by_length[[int(share * (len(by_length) - 1)) for share in PROBED]])
        if len(rows) == int(table.lengths[rows].max()):
            rows = rows[-1:]
        return {name: value.to(self.machine.device) for name, value in table.inputs(rows).items()}

    def _weights(self, depth: int) -> str:
        """A hash of all frozen parameters but those of upper layers and head, with their names in the bare model."""
        places = {EMBEDDINGS, *(f"layer {number}" for number in range(depth)), FINAL}
        below = {
            self.layers.plain[name]: parameter for name, parameter in sorted(self.network.named_parameters())
            if not parameter.requires_grad and self.layers.places.get(name) in places
        }  # fmt: skip
        digests = sha256_of(below)
        return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in digests.items()).encode()).hexdigest()
