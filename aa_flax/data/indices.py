"""Batches of indices only, for data that is held on the device."""

from collections.abc import Iterator

import numpy as np

from aa_flax.data.pipeline import Batch, local_batch, steps_per_epoch


class IndexBatches(Iterator[Batch]):
    """An endless iterator over shuffled batches of indices: {"index": int32 [batch_size / process_count]}.

    The order differs from that of `train_batches`: in each epoch it is a permutation that depends on (seed, epoch)
    only, without the remainder that fills no batch. The batches do not depend on the number of processes.

    Args:
        count: the number of examples.
        batch_size: the number of examples in a batch, over all processes.
        seed: the seed of the order; 0 or more.
        start_step: the global step to begin at.
        process_index, process_count: which share of each batch this process gets.

    Raises:
        DataError: a batch has no example, or more than there are.
        ValueError: an argument outside what is listed here.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self._epoch_steps = steps_per_epoch(count, batch_size)
        local = local_batch(batch_size, process_index, process_count)
        if seed < 0 or start_step < 0:
            raise ValueError(f"seed and start_step must be 0 or more, got {seed} and {start_step}")
        self._count, self._batch_size, self._seed, self._step = count, batch_size, seed, start_step
        self._piece = slice(process_index * local, (process_index + 1) * local)
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def __next__(self) -> Batch:
        epoch, step = divmod(self._step, self._epoch_steps)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, epoch], np.uint64)))
            self._epoch, self._order = epoch, generator.permutation(self._count).astype(np.int32)
        self._step += 1
        return {"index": self._order[step * self._batch_size : (step + 1) * self._batch_size][self._piece]}

    def close(self) -> None:
        """Do nothing: unlike `Batches`, this iterator has no threads to end."""

    def __enter__(self) -> "IndexBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
