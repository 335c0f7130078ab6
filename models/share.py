"""A worker's share of a training: which rows of every batch it computes, and what all workers agree on.

Every worker draws the same batches from the same seed and computes the rows `rank::workers` of each; gradients are
averaged after each step (DistributedDataParallel), so that the weights stay equal everywhere. A batch that cannot be
sharded, because its tensors differ in their first dimension or it has fewer rows than there are workers, is computed
whole by every worker: slower, but correct. Where the rows do not divide evenly, each worker's mean counts
the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.recipes.recipe import Batch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """Worker `rank` of `workers`; with more than one, torch.distributed must be initialised."""

    rank: int = 0
    workers: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the worker that validates, logs and writes files."""
        return self.rank == 0

    def wrap(self, step: nn.Module) -> nn.Module:
        """Average the gradients of every parameter in `step`, whose `forward` must give the loss, over the workers.

        Weights and buffers start as those of worker 0.
        """
        if self.workers == 1:
            return step
        # A batch may lack what one of the heads learns from.
        return DistributedDataParallel(step, find_unused_parameters=True)

    def shard(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This worker's rows of every batch.

        Batches may draw from torch's global generator, and so does dropout, which must differ from worker to worker:
        each of the two has a generator state of its own.
        """
        if self.workers == 1:
            yield from batches
            return
        drawing = torch.get_rng_state()
        torch.manual_seed(torch.initial_seed() + (self.rank << 32))
        iterator = iter(batches)
        while True:
            own = torch.get_rng_state()
            torch.set_rng_state(drawing)
            batch = next(iterator, None)
            drawing = torch.get_rng_state()
            torch.set_rng_state(own)
            if batch is None:
                return
            yield self.rows(batch)

    def rows(self, batch: Batch) -> Batch:
        """Rows `rank::workers` of every tensor, or the whole batch where it cannot be sharded."""
        lengths = {len(value) if value.dim() else 0 for value in batch.values()}
        if len(lengths) != 1 or lengths.pop() < self.workers:
            return batch
        return {key: value[self.rank :: self.workers] for key, value in batch.items()}

    def mean(self, loss: Tensor) -> float:
        """The mean over the workers, the same in each; not finite as soon as one of them is not."""
        if self.workers == 1:
            return loss.item()
        total = loss.detach().float().clone()
        distributed.all_reduce(total)
        return total.item() / self.workers

    def broadcast(self, value: T) -> T:
        """Worker 0's value, in every worker."""
        if self.workers == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]
