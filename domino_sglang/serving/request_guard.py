"""Requests that would end the server, answered with 400 where they come in.

Plain SGLang dies of most of them as well: a number that no tensor holds, an index that no table has. One guard in the
tokenizer manager covers ``/generate`` and the OpenAI endpoints, batches, ``n`` choices, sessions and the engine.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import torch
from sglang.srt.managers.io_struct import GenerateReqInput, msgpack_decode, msgpack_encode
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
from sglang.srt.sampling.sampling_params import SamplingParams

INT32 = torch.iinfo(torch.int32).max
FLOAT32 = torch.finfo(torch.float32)


def guard_request(
    original: Callable, manager: Any, obj: Any, input_text: Any, input_ids: Sequence[int] | None, *media: Any
) -> Any:
    """Around ``TokenizerManager._create_tokenized_object``.

    Raises:
        ValueError: a sentence for the user; SGLang answers it with 400.
    """
    if not isinstance(obj, GenerateReqInput):
        return original(manager, obj, input_text, input_ids, *media)
    vocab_size = manager.model_config.vocab_size
    # With embeddings or images, the ids stand for something else.
    if not any(part is not None for part in media):
        check_prompt(input_ids, vocab_size, continues=obj.session_params is not None)
    if obj.return_logprob:
        check_logprobs(obj.logprob_start_len, obj.top_logprobs_num, vocab_size)
    if obj.custom_logit_processor:
        check_processor(obj.custom_logit_processor)
    try:
        tokenized = original(manager, obj, input_text, input_ids, *media)
    except TypeError as error:
        check_kinds(obj.sampling_params)
        raise ValueError(f"The request cannot be read: {error}") from error
    params = tokenized.sampling_params
    check_kinds(msgspec.structs.asdict(params))
    check_transport(tokenized)
    check_sampling(params)
    # Harmless, for they are never said; but SGLang indexes with them under min_new_tokens.
    params.stop_token_ids = {token for token in params.stop_token_ids or () if 0 <= token < vocab_size} or None
    return tokenized


def check_processor(serialized: str) -> None:
    """Whether a custom logit processor can be loaded, as the scheduler will.

    Raises:
        ValueError: why not.
    """
    try:
        CustomLogitProcessor.from_str(serialized)
    except Exception as error:
        raise ValueError(f"custom_logit_processor cannot be loaded: {type(error).__name__}: {error}") from error


def check_kinds(sampling: Mapping[str, Any]) -> None:
    """Sampling parameters by name, as a user gives them or as SGLang has read them: each is of its type.

    Raises:
        ValueError: name, value, expectation.
    """
    for name, kind in _kinds().items():
        value = sampling.get(name)
        try:
            if value is not None:
                msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name} is {value!r}: {error}") from error


@functools.cache
def _kinds() -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(SamplingParams)}


def check_transport(tokenized: Any) -> None:
    """Whether the scheduler can read a ``TokenizedGenerateReqInput``, which travels as msgpack with a schema.

    Raises:
        ValueError: what is wrong with it.
    """
    # What is long, or travels pickled, is well typed by now.
    bare = msgspec.structs.replace(
        tokenized, input_text="", input_ids=array("q"), input_embeds=None, mm_inputs=None, time_stats=None
    )
    try:
        msgpack_decode(msgpack_encode(bare))
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"The request cannot be read: {error}") from error


def check_prompt(input_ids: Sequence[int] | None, vocab_size: int, continues: bool) -> None:
    """The prompt's token ids; one that continues a session may be empty.

    Raises:
        ValueError: value, expectation.
    """
    if not input_ids:
        if not continues:
            raise ValueError("The prompt has no tokens, and at least one is needed")
        return
    for token in (min(input_ids), max(input_ids)):
        if not 0 <= token < vocab_size:
            raise ValueError(f"input_ids holds {token}, and this model's tokens are 0 to {vocab_size - 1}")


def check_logprobs(start: int, top: int, vocab_size: int) -> None:
    """``logprob_start_len`` and ``top_logprobs_num``.

    Raises:
        ValueError: value, expectation.
    """
    if start < -1:
        raise ValueError(f"logprob_start_len is {start}, and it must be -1 (no prompt logprobs) or a position")
    if not 0 <= top <= vocab_size:
        raise ValueError(f"top_logprobs_num is {top}, and it must be 0 to {vocab_size}, the size of the vocabulary")


def check_sampling(params: Any) -> None:
    """What of ``SamplingParams`` becomes a tensor of 32 bits.

    Raises:
        ValueError: value, expectation.
    """
    for name in ("top_k", "min_new_tokens"):
        value = getattr(params, name)
        if value > INT32:
            raise ValueError(f"{name} is {value}, and it must be at most {INT32}")
    if params.repetition_penalty < FLOAT32.tiny:
        raise ValueError(f"repetition_penalty is {params.repetition_penalty}, and it must be at least {FLOAT32.tiny}")
    for token, bias in (params.logit_bias or {}).items():
        if not bias <= FLOAT32.max:
            raise ValueError(f"logit_bias of token {token} is {bias}, and it must be at most {FLOAT32.max}")
