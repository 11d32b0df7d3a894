"""Fully sharded data parallelism."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes, saving whole (unsharded) checkpoints that any number of devices can load.

    Lightning's ModelParallelStrategy shards over machines and splits tensors within them unless told otherwise; the
    number of processes it must be told is known only here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()
