"""The stand-in for CUDA graphs: it does what a graph does, and refuses what a capture refuses."""

from __future__ import annotations

import pytest
import torch

from tests.support.recording import Recording


def recorded(function):
    with Recording() as recording:
        result = function()
    return recording, result


def test_a_replay_reads_inputs_anew_and_keeps_scalars_and_addresses():
    value, factor = torch.tensor([1.0, 2.0]), [3.0]
    recording, result = recorded(lambda: (value[1:] * factor[0] + 1).relu_())
    address = result.data_ptr()
    assert result.tolist() == [7.0]
    value.copy_(torch.tensor([9.0, -5.0]))
    factor[0] = 100.0
    recording.replay()
    assert result.tolist() == [0.0]
    value[1] = 4.0
    recording.replay()
    assert result.tolist() == [13.0] and result.data_ptr() == address


def test_memory_that_nothing_writes_holds_nan():
    recording, result = recorded(lambda: torch.empty(3))
    result.zero_()
    recording.replay()
    assert result.isnan().all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.tensor([1.0, 2.0]),
    ],
    ids=["item", "bool", "mask", "nonzero", "from the host"],
)
def test_what_cuda_cannot_capture_is_refused(function):
    with pytest.raises(RuntimeError, match="cannot be captured"):
        recorded(lambda: function(torch.ones(2)))
