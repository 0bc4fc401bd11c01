"""SGLang's kits for servers that speculate, against the DOMINO servers. README.md says which of them cannot run."""

from __future__ import annotations

import functools
import json

import pytest
from sglang.test.kits import radix_cache_server_kit
from sglang.test.kits.spec_server_kits import SpecCorrectnessKit, SpecFeatureKit, SpecGrammarKit, SpecLogprobKit
from sglang.test.server_fixtures.spec_eagle_fixture import SpecEagleServerBase
from sglang.test.test_utils import run_logprob_check

from tests.support.kit import Kit, bounded


class TestSpecCorrectness(SpecCorrectnessKit, Kit):
    # How much is accepted is the drafter's affair, not the server's; these say that drafting goes on at all.
    acc_length_thres = 1.0
    batch_accept_len_thres = 1.0
    longest_answer = 16


class TestSpecLogprob(SpecLogprobKit, Kit):
    logprob_match_delta = 1e-3
    longest_answer = 16

    def test_logprob_mixed(self):
        # The kit's own grid prefills about 150,000 tokens.
        for start in (0, 100):
            for top in (0, 5):
                run_logprob_check(self, (300, 4, 0, start, True, top))


class TestSpecFeature(SpecFeatureKit, Kit):
    arm = "domino"
    longest_answer = 8
    send_request = SpecEagleServerBase.send_request
    send_requests_abort = SpecEagleServerBase.send_requests_abort
    # Asks for JSON without a schema or a limit, which this model does not end; TestJSONMode asks within limits.
    test_constrained_decoding = None

    @pytest.fixture(autouse=True)
    def _small_tree(self, monkeypatch):
        grow = functools.partial(radix_cache_server_kit.gen_radix_tree, num_nodes=16, chunk_len=32)
        monkeypatch.setattr(radix_cache_server_kit, "gen_radix_tree", grow)


class TestSpecGrammar(SpecGrammarKit, Kit):
    grammar_json_schema = json.dumps(bounded(json.loads(SpecGrammarKit.grammar_json_schema)))
