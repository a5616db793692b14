from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.pipelines.model_export.nodes import export_embedder
from embedding_adaptation.pipelines.model_export.options import ExportOptions


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_adapter_is_merged_on_the_cpu_in_the_format_asked_for(tiny_adapted, model_facts, embedder_options, dtype, tolerance):
    options = embedder_options()
    value = export_embedder(tiny_adapted, model_facts, ExportOptions(dtype=dtype), options)
    assert not hasattr(value.embedder.backbone, "peft_config")
    assert str(value.embedder.backbone.dtype) == f"torch.{dtype}"
    assert value.facts["dimensions"] == 32
    assert value.card.startswith("---\n")
    expected = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64).encode(["water"], value.strategy, progress=False)
    np.testing.assert_allclose(value.embedder.encode(["water"], progress=False), expected, atol=tolerance)
