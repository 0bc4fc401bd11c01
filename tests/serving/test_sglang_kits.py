"""SGLang's own test kits against the DOMINO servers. README.md lists those that cannot run, each with its reason."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import requests
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.test.kits import basic_scheduler_stress_kit, radix_cache_server_kit
from sglang.test.kits.abort_timeout_kit import AbortAllMixin
from sglang.test.kits.anthropic_messages_kit import AnthropicMessagesMixin
from sglang.test.kits.basic_api_contract_kit import BasicAPIContractMixin
from sglang.test.kits.basic_decode_correctness_kit import BasicDecodeCorrectnessMixin
from sglang.test.kits.basic_scheduler_stress_kit import BasicSchedulerStressMixin
from sglang.test.kits.ebnf_constrained_kit import EBNFConstrainedMixin
from sglang.test.kits.json_constrained_kit import JSONConstrainedMixin
from sglang.test.kits.json_mode_kit import JSONModeMixin
from sglang.test.kits.matched_stop_kit import MatchedStopMixin
from sglang.test.kits.pause_generation_kit import PauseResumeInPlaceMixin
from sglang.test.kits.regex_constrained_kit import RegexConstrainedMixin
from sglang.test.kits.spec_server_kits import (
    SpecCorrectnessKit,
    SpecFeatureKit,
    SpecGrammarKit,
    SpecHiddenStatesKit,
    SpecLogprobKit,
    SpecParityKit,
    SpecPenaltyKit,
    SpecSamplingMaskKit,
)
from sglang.test.server_fixtures import spec_eagle_fixture
from sglang.test.test_utils import CustomTestCase, run_logprob_check


class Kit(CustomTestCase):
    """Gives a kit what it reads off ``self``.

    Attributes:
        arm: name of the server.
        longest_answer: tokens; the kits were written for GPUs and ask for up to 16000 where a few dozen show the same.
    """

    arm = "sync"
    longest_answer: int | None = None
    api_key = "none"
    run_decode = spec_eagle_fixture.SpecEagleServerBase.run_decode

    @pytest.fixture(autouse=True)
    def _attach(self, servers, target, monkeypatch):
        server, cls = servers[self.arm], type(self)
        cls.base_url, cls.model = server.client.url, server.client.model
        cls.process = server.process or SimpleNamespace(poll=lambda: None)
        cls.tokenizer_path = str(target)
        if self.longest_answer is not None:
            monkeypatch.setattr(requests, "post", functools.partial(_post_within, requests.post, self.longest_answer))

    @property
    def tokenizer(self):
        return get_tokenizer(self.tokenizer_path)

    @property
    def client(self):
        from openai import OpenAI

        return OpenAI(base_url=self.base_url + "/v1", api_key=self.api_key)


def _post_within(post, longest: int, url: str, json=None, **kwargs):
    for params in _all_sampling(json or {}):
        for name in ("max_new_tokens", "max_tokens"):
            if name in params:
                params[name] = min(params[name], longest)
    return post(url, json=json, **kwargs)


def _all_sampling(body: dict) -> list[dict]:
    params = body.get("sampling_params", body)
    return params if isinstance(params, list) else [params]


def bounded(schema: dict) -> dict:
    """The kit's schema with an end to every value: a small model writes digits until it is stopped."""
    for value in schema["properties"].values():
        if value["type"] == "integer":
            value |= {"minimum": 1, "maximum": 99_999_999}
        else:
            value["pattern"] = value["pattern"].replace("+", "{1,12}")
    return schema


class TestBasicAPIContract(BasicAPIContractMixin, Kit):
    arm = "domino"


class TestBasicDecodeCorrectness(BasicDecodeCorrectnessMixin, Kit):
    arm = "domino"
    sanity_max_new_tokens_short = 24
    sanity_max_new_tokens_long = 64
    # What a model of 135M parameters does not know, with a drafter or without.
    test_basic_math = None
    test_color_completion = None


class TestBasicSchedulerStress(BasicSchedulerStressMixin, Kit):
    sanity_max_new_tokens_short = 24

    @pytest.fixture(autouse=True)
    def _answers_of_this_model(self, _attach, ar, monkeypatch):
        # A model of 135M parameters knows few capitals, and of the kit's shared prefix it makes nothing: an example
        # shows it what an answer is, and the answers expected are those of plain decoding.
        kit, prefix = basic_scheduler_stress_kit, "Q: What is the capital of Portugal?\nA: Lisbon\n"
        answers = ar.each([(prefix + question, {"max_new_tokens": 24}) for question, _ in kit._CONCURRENT_QA], 8)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip().lower() for ids in answers]
        assert all(texts)
        asked = [(question, text) for (question, _), text in zip(kit._CONCURRENT_QA, texts, strict=True)]
        monkeypatch.setattr(kit, "_CONCURRENT_PREFIX", prefix)
        monkeypatch.setattr(kit, "_CONCURRENT_QA", asked)


class TestAbortAll(AbortAllMixin, Kit):
    arm = "domino"
    abort_all_num_requests = 12
    abort_all_max_new_tokens = 900


class TestMatchedStop(MatchedStopMixin, Kit):
    arm = "domino"
    # Asks in Llama 3's chat format, which this model does not end; test_requests.py has stop tokens of its own.
    test_finish_stop_eos = None


class TestJSONConstrained(JSONConstrainedMixin, Kit):
    longest_answer = 64
    json_schema = json.dumps(bounded(json.loads(JSONConstrainedMixin.json_schema)))


class TestJSONMode(JSONModeMixin, Kit):
    pass


class TestRegexConstrained(RegexConstrainedMixin, Kit):
    arm = "domino"


class TestEBNFConstrained(EBNFConstrainedMixin, Kit):
    pass


class TestAnthropicMessages(AnthropicMessagesMixin, Kit):
    longest_answer = 24


class TestPauseGeneration(PauseResumeInPlaceMixin, Kit):
    arm = "domino"
    pause_num_requests = 6
    pause_max_new_tokens = 64
    pause_duration = 2
    pause_ignore_eos = True


class TestSpecCorrectness(SpecCorrectnessKit, Kit):
    # How much is accepted is the drafter's affair, not the server's; these say that drafting goes on at all.
    acc_length_thres = 1.0
    batch_accept_len_thres = 1.0
    longest_answer = 48


class TestSpecParity(SpecParityKit, Kit):
    longest_answer = 48

    @classmethod
    def setUpClass(cls):
        """The kit launches its reference here; ours already runs."""

    @pytest.fixture(autouse=True)
    def _reference(self, ar):
        self.parity_ref_outputs = {
            prompt: ar.generate(prompt, {"max_new_tokens": 48})["text"] for prompt in self.parity_prompts
        }


class TestSpecLogprob(SpecLogprobKit, Kit):
    logprob_match_delta = 1e-3
    longest_answer = 48

    def test_logprob_mixed(self):
        # The kit's own grid prefills about 150,000 tokens.
        for input_len in (200, 500):
            for start in (0, 100):
                for top in (0, 5):
                    run_logprob_check(self, (input_len, 4, 0, start, True, top))


class TestSpecPenalty(SpecPenaltyKit, Kit):
    longest_answer = 32


class TestSpecFeature(SpecFeatureKit, Kit):
    arm = "domino"
    longest_answer = 48

    def send_request(self):
        spec_eagle_fixture.SpecEagleServerBase.send_request(self)

    def send_requests_abort(self):
        spec_eagle_fixture.SpecEagleServerBase.send_requests_abort(self)

    @pytest.fixture(autouse=True)
    def _small_tree(self, monkeypatch):
        grow = functools.partial(radix_cache_server_kit.gen_radix_tree, num_nodes=24, chunk_len=32)
        monkeypatch.setattr(radix_cache_server_kit, "gen_radix_tree", grow)


class TestSpecGrammar(SpecGrammarKit, Kit):
    grammar_json_schema = json.dumps(bounded(json.loads(SpecGrammarKit.grammar_json_schema)))


class TestSpecHiddenStates(SpecHiddenStatesKit, Kit):
    pass


class TestSpecSamplingMask(SpecSamplingMaskKit, Kit):
    pass
