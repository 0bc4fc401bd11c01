"""Complaints name the value, the expectation and the fix."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollout_cases import make_case


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_batch=0), "max_batch is 0, expected at least 1"),
        (dict(pure_draft_prefix_len=9), r"pure_draft_prefix_len is 9, expected 0 to num_proposals \(3\)"),
        (dict(num_proposals=0), "num_proposals is 0"),
    ],
)
def test_bad_settings(device, options, words):
    with pytest.raises(ValueError, match=words):
        make_case(device=device).built(**options)


def test_bad_weights(device):
    case = make_case(bias=True, device=device)
    weights = case.weights
    with pytest.raises(ValueError, match=r"w1 has shape \[8, 31\], expected \[8, 32\]"):
        case.with_(weights=replace(weights, w1=weights.w1[:, :-1].contiguous())).built()
    with pytest.raises(ValueError, match="one of b_ih and b_hh is None"):
        case.with_(weights=replace(weights, b_ih=None)).built()
    with pytest.raises(ValueError, match=r"embedding has shape \[300, 20\], expected \[301, 20\]"):
        case.built(embedding=case.embedding[:-1])
    with pytest.raises(ValueError, match=r"w_hh is torch\.float64, expected torch\.float32"):
        case.with_(weights=replace(weights, w_hh=weights.w_hh.double())).built()


def test_bad_inputs(device):
    case = make_case(sampled=True, device=device)
    rollout = case.built()
    with pytest.raises(ValueError, match=r"base_logits has shape \[3, 3, 300\], expected \[3, 3, 301\]"):
        rollout(case.z, case.base[:, :, 1:], case.bonus)
    with pytest.raises(ValueError, match=r"batch is 6, expected 1 to max_batch \(3\); raise max_batch"):
        rollout(case.z.repeat(2, 1, 1), case.base, case.bonus)
    with pytest.raises(ValueError, match=r"bonus_tokens is torch\.int32"):
        rollout(case.z, case.base, case.bonus.int())
    with pytest.raises(ValueError, match="z has stride"):
        rollout(case.z.transpose(1, 2).contiguous().transpose(1, 2), case.base, case.bonus)
    wrong = replace(case.sampling, temperature=case.sampling.temperature.double())
    with pytest.raises(ValueError, match=r"temperature is torch\.float64"):
        rollout(case.z, case.base, case.bonus, wrong)
