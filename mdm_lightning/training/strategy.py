"""Fully sharded data parallelism."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes, saving whole (unsharded) checkpoints.

    Lightning's ModelParallelStrategy shards over machines and splits tensors within them unless told otherwise; the
    number of processes it must be told is known only here.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole: frozen weights are not part of a checkpoint, and need not be gathered."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)
