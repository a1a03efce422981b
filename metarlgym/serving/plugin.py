"""Entry point `vllm.general_plugins`: every vLLM process calls `register` at its start."""

from __future__ import annotations

BACKEND = "gloo"


def register() -> None:
    """Make the weight-transfer backend `gloo` known to vLLM; a second call changes nothing."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "metarlgym.serving.engine", "GlooWeightTransferEngine")
