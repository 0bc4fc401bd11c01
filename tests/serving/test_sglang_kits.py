"""SGLang's own test kits against the DOMINO servers. README.md lists those that cannot run, each with its reason."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
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
from sglang.test.kits.pause_generation_kit import PauseResumeInPlaceMixin
from sglang.test.kits.regex_constrained_kit import RegexConstrainedMixin

from tests.support.kit import Kit, bounded


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
    # Still seven prefill chunks.
    longest_prompt = 8000

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


class TestPauseGeneration(PauseResumeInPlaceMixin, Kit):
    arm = "domino"
    pause_num_requests = 6
    pause_max_new_tokens = 32
    pause_duration = 2
    pause_ignore_eos = True


class TestMatchedStop(MatchedStopMixin, Kit):
    arm = "domino"
    # Asks in Llama 3's chat format, which this model does not end; test_requests.py has stop tokens of its own.
    test_finish_stop_eos = None
    # This model's story has no second paragraph to stop at.
    test_finish_stop_str = None


class TestJSONConstrained(JSONConstrainedMixin, Kit):
    longest_answer = 40
    json_schema = json.dumps(bounded(json.loads(JSONConstrainedMixin.json_schema)))

    def test_mix_json_and_other(self):
        # One full batch; the kit's own forty requests are two and a half.
        schemas = [None, None, self.json_schema, self.json_schema] * 4
        with ThreadPoolExecutor(len(schemas)) as pool:
            list(pool.map(self._run_decode_json, schemas))


class TestJSONMode(JSONModeMixin, Kit):
    pass


class TestRegexConstrained(RegexConstrainedMixin, Kit):
    arm = "domino"
    longest_repeat = 4


class TestEBNFConstrained(EBNFConstrainedMixin, Kit):
    longest_repeat = 4
    # Its pattern of a JSON object wants three keys in their order; its grammar takes any of them.
    temperature = 0


class TestAnthropicMessages(AnthropicMessagesMixin, Kit):
    longest_answer = 16
    # Without a system message, this model's chat template writes one of its own, longer than the kit's.
    test_count_tokens_with_system = None
