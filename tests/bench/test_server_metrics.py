import pytest

from domino_sglang.bench.common.server_metrics import between, parse

BEFORE = """
# TYPE domino:verify_steps_total counter
domino:verify_steps_total{model_name="m"} 10
domino:accepted_proposals_total{model_name="m",position="1"} 10
domino:accepted_proposals_total{model_name="m",position="2"} 5
"""
AFTER = """
# TYPE domino:verify_steps_total counter
domino:verify_steps_total{model_name="m"} 30
# TYPE domino:accepted_proposals_total counter
domino:accepted_proposals_total{model_name="m",position="10"} 1
domino:accepted_proposals_total{model_name="m",position="1"} 25
domino:accepted_proposals_total{model_name="m",position="2"} 10
# TYPE domino:timed_steps_total counter
domino:timed_steps_total{model_name="m"} 20
# TYPE domino:step_seconds_total counter
domino:step_seconds_total{model_name="m",part="draft"} 0.2
domino:step_seconds_total{model_name="m",part="head"} 0.1
"""


def test_acceptance_between_two_scrapes():
    decoding = between(parse(BEFORE), parse(AFTER))
    assert decoding.verify_steps == 20
    assert decoding.acceptance_by_position == [0.75, 0.25, 0.05]
    assert decoding.acceptance_length == pytest.approx(2.05)
    assert decoding.step_ms == pytest.approx({"draft": 10.0, "head": 5.0})


def test_other_algorithms_are_counted_by_sglang():
    text = """
sglang:spec_verify_calls_total{engine_type="unified"} 40
sglang:generation_tokens_total{engine_type="unified"} 104
sglang:num_requests_total{engine_type="unified"} 4
"""
    decoding = between({}, parse(text))
    assert decoding.acceptance_length == 2.5
    assert decoding.acceptance_by_position == [] and decoding.step_ms == {}


def test_plain_decoding_has_no_acceptance():
    assert between({}, parse("sglang:generation_tokens_total 9\n")).acceptance_length is None
