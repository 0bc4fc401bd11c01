"""The guard's rules where no server is needed; tests/serving/test_bad_requests.py asks them over HTTP."""

from __future__ import annotations

import pytest
from sglang.srt.sampling.custom_logit_processor import DisallowedTokensLogitsProcessor
from sglang.srt.sampling.sampling_params import SamplingParams

from domino_sglang.serving.request_guard import check_kinds, check_processor, check_sampling


@pytest.mark.parametrize("serialized", ["abc", "{}", '{"callable": "00"}'])
def test_a_processor_that_cannot_be_loaded(serialized):
    with pytest.raises(ValueError, match="custom_logit_processor cannot be loaded: "):
        check_processor(serialized)
    check_processor(DisallowedTokensLogitsProcessor.to_str())


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 1.5},
        {"stop_token_ids": 5},
        {"logit_bias": [1]},
        {"stream_interval": "often"},
        {"temperature": None, "top_p": "much"},
        {"custom_params": {"a": {"b": {"c": 1}}}},
    ],
)
def test_a_parameter_of_another_type_is_named(sampling):
    name = list(sampling)[-1]
    with pytest.raises(ValueError, match=f"^{name} is "):
        check_kinds(sampling)


def test_parameters_as_users_send_them_are_of_their_types():
    check_kinds({"temperature": 1, "stop": "a", "stop_token_ids": [1, 2], "logit_bias": {"5": 1}, "top_k": None})
    check_kinds({"stop": ["a", "b"], "json_schema": "{}", "custom_params": {"budget": 5, "ids": [1, 2]}})


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 2**31},
        {"min_new_tokens": 2**31},
        {"repetition_penalty": 1e-40},
        {"logit_bias": {"5": 1e39}},
        {"logit_bias": {"5": float("nan")}},
    ],
)
def test_numbers_that_no_tensor_of_32_bits_holds(sampling):
    with pytest.raises(ValueError, match=f"{next(iter(sampling))} "):
        check_sampling(SamplingParams(**sampling))
    check_sampling(SamplingParams(top_k=2**31 - 1, logit_bias={"5": float("-inf")}, repetition_penalty=1e-30))
