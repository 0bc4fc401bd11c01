"""One prompt decoded speculatively under Transformers, every verify step on record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from domino_sglang.hf import DominoDraftModel

SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True)
class Drafting:
    """How proposals are made.

    Attributes:
        head: False drafts from the base logits alone.
        drafts: ``sampled`` from the drafter's distribution at the request's temperature, or ``greedy``: the drafter's
            most likely tokens, verified as a point mass. At temperature 0 the two are one.
    """

    head: bool
    drafts: str = SAMPLED

    @property
    def arm(self) -> str:
        return "DOMINO" if self.head else "base"


@dataclass
class Trace:
    """What one prompt gave.

    Attributes:
        tokens: new tokens, up to and with the stop.
        accepted: proposals accepted by each verify step, before any cut at a stop or at the limit.
        seconds: after the prompt was read.
    """

    tokens: list[int]
    accepted: list[int] = field(default_factory=list)
    seconds: float = 0.0


def decode(
    drafter: DominoDraftModel,
    target: PreTrainedModel,
    input_ids: torch.Tensor,
    drafting: Drafting,
    *,
    temperature: float,
    max_new_tokens: int,
    stops: set[int],
    seed: int = 0,
) -> Trace:
    """Continue a prompt ``[1, n]``, n at least 1, on the clock."""
    steps: list[float] = []
    output = drafter.spec_generate(
        target,
        input_ids,
        max_new_tokens,
        temperature,
        seed=seed,
        stop_token_ids=stops,
        head=drafting.head,
        sampled_drafts=drafting.drafts == SAMPLED,
        callback=lambda _tokens: steps.append(time.perf_counter()),
    )
    tokens = output.sequences[0, input_ids.shape[1] :].tolist()
    return Trace(tokens, [committed - 1 for committed in output.acceptance], steps[-1] - steps[0])


@torch.inference_mode()
def decode_plainly(
    target: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    temperature: float,
    max_new_tokens: int,
    stops: set[int],
    seed: int = 0,
) -> Trace:
    """The same loop without a drafter: what speculation is compared with."""
    cache = DynamicCache(config=target.config)
    generator = torch.Generator(input_ids.device).manual_seed(seed)

    def next_token(ids: torch.Tensor) -> int:
        logits = target(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()
        if temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))

    trace = Trace([next_token(input_ids)])
    began = time.perf_counter()
    while trace.tokens[-1] not in stops and len(trace.tokens) < max_new_tokens:
        trace.tokens.append(next_token(input_ids.new_tensor([trace.tokens[-1:]])))
    trace.seconds = time.perf_counter() - began
    return trace
