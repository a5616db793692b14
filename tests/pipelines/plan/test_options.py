from __future__ import annotations

import pytest
from pydantic import ValidationError

from embedding_adaptation.pipelines.plan.options import PlanOptions


def test_samples_of_two_sizes_and_at_least_one_worker_are_needed():
    assert PlanOptions(seed=0).workers == (1, 8, 64)
    with pytest.raises(ValidationError, match="samples is 96 and 96; give two different numbers"):
        PlanOptions(seed=0, samples=(96, 96))
    with pytest.raises(ValidationError, match="cheap_samples is 500 and 100"):
        PlanOptions(seed=0, cheap_samples=(500, 100))
    with pytest.raises(ValidationError, match="workers contains 0"):
        PlanOptions(seed=0, workers=(0, 1))
