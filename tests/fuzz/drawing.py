"""How calls are drawn: fields by ones and twos, with values at and beyond the edges of what they may be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.calls import ABORTS, CHAT, COMPLETION, GENERATE, LEAVES, WHOLE, Call, Json

VOCAB = 49152


def some_of(known: dict[str, st.SearchStrategy], most: int = 4) -> st.SearchStrategy[Json]:
    """An object with a few of these fields."""
    names = st.lists(st.sampled_from(sorted(known)), unique=True, max_size=most)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: known[name] for name in chosen}))


TEXTS = st.one_of(
    st.sampled_from(
        [
            "Hello",
            " ",
            "Once upon a time",
            "1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 1 2 3",
            "def fibonacci(n):",
            "👩‍👩‍👧‍👦🇳🇴 はい",
            "مرحبا שלום",
            "a\u0000b\ufeff",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "the " * 270,
        ]
    ),
    st.text(min_size=1, max_size=12),
)
# Around the length of a chunk of the prefill, and of several.
EDGES = st.sampled_from([1, 2, 63, 64, 65, 255, 256, 257, 511, 513])
IDS = st.one_of(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12),
    st.builds(lambda first, length: list(range(first, first + length)), st.integers(0, 40000), EDGES),
    st.builds(lambda token, length: [token] * length, st.integers(0, VOCAB - 1), EDGES),
)
STOPS = st.sampled_from([",", " the", "\n", "e", "", ".", "\n\n", "å", "🙂", "1 2"])
LENGTHS = st.sampled_from([0, 1, 2, 7, 8, 9, 16, 24])
SCHEMAS = [
    '{"type":"object","properties":{"a":{"type":"integer","minimum":1,"maximum":99}},"required":["a"],'
    '"additionalProperties":false}',
    '{"type":"array","items":{"enum":["x","y"]},"minItems":1,"maxItems":3}',
    '{"enum":["å","🙂",1,null]}',
    '{"type":"string","maxLength":5}',
]
BAD_SCHEMAS = ["{", '{"type":"nothing"}', '{"$ref":"#/none"}']
REGEXES = ["(Yes|No), [a-z]{1,5}\\.", "[0-9]{3}", "a?", "", "(", "🙂+å{2}", "(a|b){1,3}c"]
EBNFS = ['root ::= "yes" | "no"', 'root ::= [a-c] root | "."', "root ::=", ""]
BIASES = st.dictionaries(
    st.sampled_from(["28", "30", "0", "2", str(VOCAB - 1), str(VOCAB), "-1"]),
    st.sampled_from([5.0, -100.0, 100.0, 0.0, 1e9]),
    max_size=3,
)
PENALTIES = {
    "frequency_penalty": st.sampled_from([0.5, -0.5, 2.0, -2.0, 2.1]),
    "presence_penalty": st.sampled_from([0.5, -1.0, 2.0, 3.0]),
    "repetition_penalty": st.sampled_from([1.1, 1.9, 0.7, 0.0, 2.1]),
}
LAWS = {
    "top_p": st.sampled_from([0.9, 0.01, 1.0, 0.0, 1.1]),
    "top_k": st.sampled_from([-1, 1, 5, 0, VOCAB, VOCAB + 1]),
    "min_p": st.sampled_from([0.0, 0.1, 1.0, 1.1]),
}
TEMPERATURES = st.sampled_from([0, 0, 0, 0, 0, 1.0, 0.7, 1e-6, -1.0])
COMMON = {
    **PENALTIES,
    **LAWS,
    "stop": st.one_of(STOPS, st.lists(STOPS, max_size=4)),
    "stop_token_ids": st.lists(st.sampled_from([0, 2, 28, 30, 198, VOCAB - 1]), max_size=3),
    "stop_regex": st.sampled_from(["[0-9]", "[a-z]+,", "(", "e "]),
    "ignore_eos": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "no_stop_trim": st.booleans(),
    "logit_bias": BIASES,
    "regex": st.sampled_from(REGEXES),
    "ebnf": st.sampled_from(EBNFS),
    "n": st.sampled_from([1, 2, 3, 0]),
}
NATIVE = COMMON | {
    "min_new_tokens": st.sampled_from([0, 1, 3, 8, 24, 30, -1]),
    "json_schema": st.sampled_from(SCHEMAS + BAD_SCHEMAS),
    "sampling_seed": st.sampled_from([0, 1, -1, 2**63 - 1, 2**63]),
    "spaces_between_special_tokens": st.booleans(),
    "custom_params": st.sampled_from([{}, {"a": 1}, {"thinking_budget": 2}]),
    "stream_interval": st.sampled_from([1, 3]),
}
LOGPROBS = {
    "return_logprob": st.just(True),
    "logprob_start_len": st.sampled_from([-1, 0, 1, 3, 600]),
    "top_logprobs_num": st.sampled_from([0, 1, 5]),
    "token_ids_logprob": st.lists(st.sampled_from([0, 28, VOCAB - 1]), max_size=3),
    "return_text_in_logprobs": st.booleans(),
    "stream": st.booleans(),
}


def _processor(name: str, **parameters: Any) -> Json:
    """What a request says to have its logits changed by a class of SGLang's: the class pickled by its name."""
    pickled = f"csglang.srt.sampling.custom_logit_processor\n{name}\n.".encode()
    return {"custom_logit_processor": json.dumps({"callable": pickled.hex()}), "custom_params": parameters}


PROCESSORS = st.sampled_from(
    [
        _processor("DisallowedTokensLogitsProcessor", token_ids=[28, 30, 198, 260]),
        _processor("DeepseekOCRNoRepeatNGramLogitProcessor", ngram_size=2, window_size=20),
        *[{}] * 12,
    ]
)


def _native(prompt: Json, sampling: Json, length: int, temperature: float, more: Json, processor: Json) -> Json:
    sampling = {"temperature": temperature, "max_new_tokens": length} | sampling
    processor = dict(processor)
    if processor:
        sampling["custom_params"] = processor.pop("custom_params")
    return prompt | {"sampling_params": sampling} | more | processor


PROMPTS = st.one_of(
    TEXTS.map(lambda text: {"text": text}),
    IDS.map(lambda ids: {"input_ids": ids}),
    st.lists(TEXTS, min_size=2, max_size=3).map(lambda texts: {"text": texts}),
)
NATIVE_BODIES = st.builds(_native, PROMPTS, some_of(NATIVE), LENGTHS, TEMPERATURES, some_of(LOGPROBS), PROCESSORS)

_FORMATS = st.sampled_from(
    [
        {"type": "text"},
        {"type": "json_object"},
        *({"type": "json_schema", "json_schema": {"name": "a", "schema": json.loads(s)}} for s in SCHEMAS),
    ]
)
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]},
        },
    }
]
OPENAI = COMMON | {
    "min_tokens": st.sampled_from([0, 1, 3, 8, 24, 30]),
    "seed": st.sampled_from([0, 1, -1, 2**63 - 1]),
    "stream": st.booleans(),
}
CHATTING = OPENAI | {
    "logprobs": st.booleans(),
    "top_logprobs": st.sampled_from([0, 1, 5, 20]),
    "response_format": _FORMATS,
    "tools": st.just(_TOOLS),
    "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "continue_final_message": st.booleans(),
    "max_completion_tokens": LENGTHS,
}
COMPLETING = OPENAI | {
    "echo": st.booleans(),
    "logprobs": st.sampled_from([0, 1, 5]),
    "suffix": st.sampled_from(["", "end"]),
    "best_of": st.sampled_from([1, 2]),
}
_ROLES = st.sampled_from(["user", "user", "system", "assistant"])
_MESSAGES = st.lists(
    st.fixed_dictionaries({"role": _ROLES, "content": st.one_of(TEXTS, st.just(""))}), min_size=1, max_size=3
)


def _openai(prompt: Json, fields: Json, length: int, temperature: float) -> Json:
    return {"model": "m", "max_tokens": length, "temperature": temperature} | prompt | fields


CHAT_BODIES = st.builds(
    _openai, _MESSAGES.map(lambda found: {"messages": found}), some_of(CHATTING), LENGTHS, TEMPERATURES
)
COMPLETION_BODIES = st.builds(
    _openai,
    st.one_of(TEXTS, IDS, st.lists(TEXTS, min_size=2, max_size=2)).map(lambda prompt: {"prompt": prompt}),
    some_of(COMPLETING),
    LENGTHS,
    TEMPERATURES,
)
ENDINGS = st.sampled_from([WHOLE] * 8 + [LEAVES, ABORTS])
CALLS = st.one_of(
    st.builds(Call, st.just(GENERATE), NATIVE_BODIES, ENDINGS),
    st.builds(Call, st.just(CHAT), CHAT_BODIES, ENDINGS),
    st.builds(Call, st.just(COMPLETION), COMPLETION_BODIES, ENDINGS),
)
# Sent at the same moment.
BATCHES = st.lists(CALLS, min_size=1, max_size=4)
