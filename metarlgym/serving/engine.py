"""GlooWeightTransferEngine: lets a vLLM worker without CUDA receive the trainer's weights over TCP.

vLLM's own engines need NCCL or CUDA IPC, but others can be registered (`metarlgym.serving.plugin`). This module is
imported only in vLLM's processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from metarlgym.serving.gloo import GlooGroup


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Parameters for joining the trainer's group."""

    master_address: str
    master_port: int
    rank_offset: int
    """Rank of this server's first worker; the trainer is rank 0."""
    world_size: int
    timeout: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Description of the tensors that follow, in order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives full weights in checkpoint format, broadcast by the trainer."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group: GlooGroup | None = None
        self._begun = False

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the trainer's group, leaving any group of an earlier trainer."""
        self.shutdown()
        parallel = self.parallel_config
        worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._group = GlooGroup(
            init_info.master_address,
            init_info.master_port,
            init_info.rank_offset + worker,
            init_info.world_size,
            init_info.timeout,
        )

    def start_weight_update(self) -> None:
        if self._begun:
            # The last update was aborted. Layers it left partly loaded would be counted twice by the next one.
            finalize_layerwise_reload(self.model, self.model_config)
        self._begun = True
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        if self._group is None:
            raise RuntimeError("no trainer has joined: call /init_weight_transfer_engine first")
        try:
            for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                self._group.broadcast(tensor)
                self.model.load_weights([(name, tensor)])
        except BaseException:
            self.shutdown()  # so that the trainer's broadcast fails now instead of timing out
            raise

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._begun = False
        # On CPUs, linear layers hold a packed copy of their weight. The reload repacks all of them except a head tied
        # to the embedding, which would keep using the old weights although every parameter is correct.
        for layer in self.model.modules():
            if hasattr(layer, "cpu_linear") and layer.weight.numel():
                dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    def shutdown(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
