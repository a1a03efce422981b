"""Settings of `train` that change the weights a run ends with."""

from __future__ import annotations

import pytest
from field_tables import PASSED_THROUGH, WEIGHTS


@pytest.mark.parametrize(
    "field", [pytest.param(field, marks=pytest.mark.slow if field in PASSED_THROUGH else ()) for field in WEIGHTS]
)
def test_the_weights_change(field, start):
    base, value = WEIGHTS[field]
    off = {"ref_model_sync_steps": None} if field == "sync_ref_model" else {}
    before, after = start(**base).weights, start(**{**base, field: value, **off}).weights
    assert before.shape != after.shape or (before - after).abs().max() > 1e-5
