"""Which precision a run gets on which machine."""

import pytest
import torch

from vlm.training.precision import autocast, uses_bf16


@pytest.mark.parametrize("cuda, mkldnn, expected", [(False, False, False), (False, True, True), (True, False, True)])
def test_auto_asks_the_machine(monkeypatch, cuda, mkldnn, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("vlm.training.precision._cpu_is_quick_at_bf16", lambda: mkldnn)
    assert uses_bf16("auto") is expected
    assert uses_bf16("bf16") and not uses_bf16("fp32")


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_come_in_the_precision_asked_for(precision, dtype):
    a = torch.randn(4, 4)
    with autocast(precision):
        assert (a @ a).dtype == dtype
