"""Entry point `vllm.general_plugins`: every vLLM process calls `register` at startup."""

from __future__ import annotations

BACKEND = "gloo"


def register() -> None:
    """Register the weight-transfer backend `gloo` with vLLM; idempotent."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "metarlgym.serving.engine", "GlooWeightTransferEngine")
