"""One prompt decoded speculatively under Transformers, every verify step on record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel

from domino_sglang.core.verify import accept_greedy, race
from domino_sglang.hf import DominoDraftModel
from domino_sglang.hf.generation import _Run

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


class GreedyDraftRun(_Run):
    """Drafts greedily at any temperature. Rejection sampling against a point mass: the target draws a token at each
    position, and a proposal is accepted when it is that token."""

    def step(self, head: bool) -> list[int]:
        if self.greedy:
            return super().step(head)
        draft, _base_logits = self.drafter.propose(
            self.bonus,
            torch.tensor([self.committed], device=self.device),
            self.context,
            embedding=self.embedding,
            lm_head=self.lm_head,
            head=head,
        )
        logits, features = self._run_target(torch.cat([self.bonus[:, None], draft.tokens], dim=1))
        positions = torch.arange(logits.shape[1], device=self.device)
        drawn = race(self._distribution(logits)[0], self._sampling(self.committed), positions)
        accepted = accept_greedy(draft.tokens, drawn[None])
        kept = int(accepted.accept_len)
        self._commit(features[:, : kept + 1])
        self._forget(self.drafter.domino.S - kept)
        self.bonus = accepted.bonus
        return [*draft.tokens[0, :kept].tolist(), int(self.bonus)]


@torch.inference_mode()
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
    """Continue a prompt ``[1, n]`` as ``spec_generate`` does, with a choice of drafting."""
    kind = GreedyDraftRun if drafting.drafts == GREEDY else _Run
    run = kind(drafter, target, temperature, seed, LogitsProcessorList())
    trace = Trace([run.prefill(input_ids)])
    began = time.perf_counter()
    while trace.tokens[-1] not in stops and len(trace.tokens) < max_new_tokens:
        step = run.step(drafting.head)
        trace.accepted.append(len(step) - 1)
        trace.tokens += _until_stop(step, stops)[: max_new_tokens - len(trace.tokens)]
    trace.seconds = time.perf_counter() - began
    return trace


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


def _until_stop(step: list[int], stops: set[int]) -> list[int]:
    stop = next((i for i, token in enumerate(step) if token in stops), None)
    return step if stop is None else step[: stop + 1]
