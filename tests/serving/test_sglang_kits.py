"""SGLang's own test kits against the DOMINO servers. README.md lists those that cannot run, each with its reason."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import requests
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.test.kits import basic_scheduler_stress_kit
from sglang.test.kits.abort_timeout_kit import AbortAllMixin
from sglang.test.kits.anthropic_messages_kit import AnthropicMessagesMixin
from sglang.test.kits.basic_api_contract_kit import BasicAPIContractMixin
from sglang.test.kits.basic_decode_correctness_kit import BasicDecodeCorrectnessMixin
from sglang.test.kits.basic_scheduler_stress_kit import BasicSchedulerStressMixin
from sglang.test.kits.ebnf_constrained_kit import EBNFConstrainedMixin
from sglang.test.kits.json_constrained_kit import JSONConstrainedMixin
from sglang.test.kits.json_mode_kit import JSONModeMixin
from sglang.test.kits.matched_stop_kit import MatchedStopMixin
from sglang.test.kits.regex_constrained_kit import RegexConstrainedMixin
from sglang.test.server_fixtures import spec_eagle_fixture
from sglang.test.test_utils import CustomTestCase


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
    # Asks for more tokens than this server's small pool holds.
    test_finish_stop_str = None
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
    test_ebnf_generate_complex_json = None  # see kits_to_settle.py


class TestAnthropicMessages(AnthropicMessagesMixin, Kit):
    longest_answer = 24
    test_count_tokens_with_system = None  # see kits_to_settle.py
