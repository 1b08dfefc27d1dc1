"""Other rows for views such as `image+text*`: which row an example meets at each turn, and how it is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import Example, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.plan import stream_seed
from msd_framework.data.batches.reader import ExampleReader, Kept, Loaded, NotMade, read_example
from msd_framework.errors import DataError
from msd_framework.structures import Batch, DatasetInfo, TeacherKey
from msd_framework.views import MIXED, TURN

UNKNOWN = -1
RULE = 2  # changes when other rows are met than before, so that no cache holds answers on those
ORDER = -(2**42)  # the stream that shuffles the rows of a split for this


class PartnerReader:
    """Reads for each example of a split another row of it, by the example's id, the turn and the name of the row (`*`, `**`).

    Rows of the split are shuffled once; an example begins at a place that its id decides, and takes the rows after it in turn. Only
    rows count that have all that is wanted of them, and never the example itself. So no row comes twice before all have come, and
    `*` and `**` are two rows.

    Args:
        reader: reads the split as the run does; its tensors of the wanted modalities are made.
        wanted: the modalities that views want of each other row, by its name.
        num_turns: how many rows an example meets before the first one comes again; None if it meets another one in each epoch.
        seed: shuffles the rows, and decides where an example begins.
    """

    def __init__(
        self, reader: ExampleReader, info: DatasetInfo, wanted: Mapping[str, Sequence[str]], num_turns: int | None, seed: int
    ):
        self.wanted, self.num_turns, self.seed = wanted, num_turns, seed
        self.dataset = reader.dataset
        self.order = np.random.default_rng(stream_seed(seed, ORDER)).permutation(len(self.dataset)).astype(np.int32)
        self.readers, self.collators = {}, {}
        self.tokens: dict[str, set[str | TeacherKey]] = {}  # modalities of tokens, by the name of the row
        for name, modalities in wanted.items():
            processors = {m: reader.processors[m] for m in modalities if m in reader.processors}
            overrides = {key: own for key, own in reader.teacher_overrides.items() if key[0] in modalities}
            # Broken rows are its own to find: what the run finds broken in other modalities, and when, must not count here.
            self.readers[name] = ExampleReader(self.dataset, processors, reader.decoded, reader.skip_errors, overrides)
            self.collators[name] = Collator(processors, info, teacher_overrides=overrides)
            both: list[tuple[str | TeacherKey, Processor | NotMade]] = [*processors.items(), *overrides.items()]
            self.tokens[name] = {key for key, processor in both if processor.kind == "tokens"}
        # What was found out of the rows, by their place: the number that an id has (crc32), and whether they have what is wanted.
        self.numbers = np.full(len(self.dataset), UNKNOWN, np.int64)
        self.fits = {name: np.full(len(self.dataset), UNKNOWN, np.int8) for name in wanted}

    def beside(self, batch: Batch, examples: Sequence[Example], epochs: Sequence[int], decoded: Kept) -> Batch:
        """The batch of some examples with the other row of each at its turn; of all turns where it is of no epoch."""
        if not epochs:
            return replace(batch, others=self._in_each_turn(batch, examples, decoded))
        turns = tuple(epochs) if self.num_turns is None else tuple(epoch % self.num_turns for epoch in epochs)
        return replace(batch, others=self._at(batch, examples, turns, decoded), turns=turns)

    def _at(self, batch: Batch, examples: Sequence[Example], turns: Sequence[int], decoded: Kept) -> dict[str, Batch]:
        others = {}
        taken: list[set[int]] = [set() for _ in examples]  # the rows that each example meets at its turn
        for number, name in enumerate(self.wanted):
            loaded = []
            for example, turn, met in zip(examples, turns, taken):
                place = self._place(example, turn * len(self.wanted) + number, name, met)
                met.add(place)
                loaded.append(self._read(place, name, decoded))
            rows = self.collators[name](loaded)
            if name == MIXED:
                rows = batch.mixed_with(replace(rows, own_share=self._own_shares(examples, turns)), self.tokens[name])
            others[name] = rows
        return others

    def _in_each_turn(self, batch: Batch, examples: Sequence[Example], decoded: Kept) -> dict[str, Batch]:
        """As a teacher is asked for all its answers at once: the rows are `*@0`, `*@1` and so on."""
        assert self.num_turns is not None
        others = {}
        for turn in range(self.num_turns):
            for name, rows in self._at(batch, examples, [turn] * len(examples), decoded).items():
                others[f"{name}{TURN}{turn}"] = rows
        return others

    def _own_shares(self, examples: Sequence[Example], turns: Sequence[int]) -> Tensor:
        """How much each example counts in a mixture at its turn, float [B]: even between 0 and 1, by its id."""
        numbers = [stream_seed(self.seed, crc32(e.id.encode()) + (turn << 32)) / 2**63 for e, turn in zip(examples, turns)]
        return torch.tensor(numbers, dtype=torch.float32)

    def _place(self, example: Example, step: int, name: str, met: Collection[int]) -> int:
        """The row at a step from where an example begins, in circles, or the next one that it does not meet yet."""
        fitting = list(islice(self._fitting(example, name), step + len(met) + 1))
        if not fitting:
            wanted = " and ".join(self.wanted[name])
            raise DataError(f"{example.source}: no other row of the split has {wanted}, which a view takes from another row.")
        for more in range(len(fitting)):
            place = fitting[(step + more) % len(fitting)]
            if place not in met:
                return place
        return fitting[step % len(fitting)]

    def _fitting(self, example: Example, name: str) -> Iterator[int]:
        """The rows that have what is wanted and are not the example, from where it begins."""
        number = crc32(example.id.encode())
        first, fits = stream_seed(self.seed, number), self.fits[name]
        for more in range(len(self.order)):
            place = int(self.order[(first + more) % len(self.order)])
            if fits[place] == UNKNOWN:
                candidate = read_example(self.dataset, place, self.wanted[name])
                self.numbers[place] = crc32(candidate.id.encode())
                fits[place] = all(candidate.inputs[m] is not None for m in self.wanted[name])
            if fits[place] and self.numbers[place] != number:
                yield place

    def _read(self, place: int, name: str, decoded: Kept) -> Loaded:
        loaded = self.readers[name](place, decoded)
        if loaded is not None:
            return loaded
        # it lacks what is wanted: were the next row taken, a teacher that can read this one would meet another row
        nothing = dict.fromkeys(self.wanted[name])
        return Loaded(replace(self.dataset[place], inputs=nothing), nothing, {})
