"""Lossless speculative generation under Transformers: draft, verify, commit, with both models' caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from domino_sglang.core.head import DraftSampling
from domino_sglang.core.verify import DraftRows, accept_greedy, accept_sampled, race
from domino_sglang.hf.layers import KeyValue

if TYPE_CHECKING:
    from domino_sglang.hf.modeling import DominoDraftModel


@dataclass
class SpecOutput:
    """What ``spec_generate`` returns.

    Attributes:
        sequences: int64 ``[1, prompt + new tokens]``.
        acceptance: committed tokens of each verify step, bonus included, before any cut at a stop or at the limit.
    """

    sequences: torch.Tensor
    acceptance: list[int] = field(default_factory=list)

    @property
    def acceptance_length(self) -> float:
        """Mean committed tokens per verify step, bonus included; 0 when no step was needed."""
        return sum(self.acceptance) / len(self.acceptance) if self.acceptance else 0.0


class SpecGeneration:
    """``spec_generate`` for :class:`~domino_sglang.hf.DominoDraftModel`."""

    @torch.inference_mode()
    def spec_generate(  # type: ignore[misc]
        self: DominoDraftModel,
        target: PreTrainedModel,
        input_ids: torch.Tensor,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_token_ids: Iterable[int] | None = None,
        streamer: BaseStreamer | None = None,
        callback: Callable[[list[int]], None] | None = None,
        head: bool = True,
        sampled_drafts: bool = True,
    ) -> SpecOutput:
        """Continue a prompt; the output distribution is exactly the target's own.

        Greedy output equals ``target.generate(do_sample=False)`` token for token as long as the target computes a
        block and a single token alike (float32; in bfloat16 up to ties within rounding).

        Args:
            target: any Transformers causal LM with the drafter's vocabulary and hidden size.
            input_ids: int64 ``[1, n]``, n at least 1.
            temperature: 0 is greedy.
            top_k, top_p: change the target's distribution as Transformers' warpers do; the draft needs no such change.
            seed: of the proposals, the coins and the bonus tokens.
            stop_token_ids: None takes the target's ``eos_token_id``.
            streamer: gets the prompt, then committed tokens, as in ``generate``.
            callback: gets each step's committed tokens.
            head: False drafts from the base logits alone.
            sampled_drafts: False drafts the drafter's most likely tokens at any temperature; the target then draws a
                token at each position, and a proposal is accepted when it is that token.

        Raises:
            ValueError: a batch, an empty prompt, a negative temperature, or a target that does not fit.
        """
        check_request(self, target, input_ids, temperature)
        run = _Run(self, target, temperature, seed, _warpers(top_k, top_p), sampled_drafts)
        stops = stop_ids(target) if stop_token_ids is None else set(stop_token_ids)
        output = SpecOutput(input_ids)
        new: list[int] = []
        if streamer is not None:
            streamer.put(input_ids.cpu())
        step = [run.prefill(input_ids)] if max_new_tokens > 0 else []
        while True:
            step = step[: max_new_tokens - len(new)]
            stop = next((i for i, token in enumerate(step) if token in stops), None)
            step = step if stop is None else step[: stop + 1]
            new.extend(step)
            if step and callback is not None:
                callback(step)
            if step and streamer is not None:
                streamer.put(torch.tensor(step))
            if stop is not None or len(new) >= max_new_tokens:
                break
            step = run.step(head)
            output.acceptance.append(len(step))
        if streamer is not None:
            streamer.end()
        output.sequences = torch.cat([input_ids, input_ids.new_tensor([new])], dim=1)
        return output


class _Run:
    """One request: the target's cache, the drafter's context, and the token that neither has read."""

    def __init__(
        self,
        drafter: DominoDraftModel,
        target: PreTrainedModel,
        temperature: float,
        seed: int,
        warp: LogitsProcessorList,
        sampled_drafts: bool,
    ):
        self.drafter, self.target, self.warp, self.seed = drafter, target, warp, seed
        self.embedding = cast(torch.Tensor, target.get_input_embeddings().weight)
        self.lm_head = cast(torch.Tensor, target.get_output_embeddings().weight)
        self.layers = [layer + 1 for layer in drafter.domino.target_layer_ids]
        self.device = self.embedding.device
        self.temperature = torch.tensor([temperature], dtype=torch.float32, device=self.device)
        self.greedy = temperature == 0
        self.sampled_drafts = sampled_drafts and not self.greedy
        self.cache = DynamicCache(config=target.config)
        self.context: list[KeyValue] = []
        self.committed = 0
        self.bonus = torch.zeros(1, dtype=torch.long, device=self.device)

    def prefill(self, input_ids: torch.Tensor) -> int:
        """Read the prompt; returns the first new token."""
        logits, features = self._run_target(input_ids.to(self.device))
        self._commit(features)
        # The position before the first block's, because one counter must not serve two draws.
        self.bonus = self._choose(logits[:, -1:], self.committed - 1)[0]
        return int(self.bonus)

    def step(self, head: bool) -> list[int]:
        """One draft and verify step; returns the committed tokens, the new bonus last."""
        sampling = self._sampling(self.committed) if self.sampled_drafts else None
        position = torch.tensor([self.committed], device=self.device)
        draft, base_logits = self.drafter.propose(
            self.bonus,
            position,
            self.context,
            embedding=self.embedding,
            lm_head=self.lm_head,
            sampling=sampling,
            head=head,
        )
        block = torch.cat([self.bonus[:, None], draft.tokens], dim=1)
        logits, features = self._run_target(block)
        if sampling is None:
            accepted = accept_greedy(draft.tokens, self._choose(logits, self.committed))
        else:
            rows = DraftRows(base_logits, self.drafter.head_weights().w2, draft, sampling)
            accepted = accept_sampled(self._distribution(logits), draft.tokens, draft.log_q, rows, sampling)
        kept = int(accepted.accept_len)
        self._commit(features[:, : kept + 1])
        self._forget(self.drafter.domino.S - kept)
        self.bonus = accepted.bonus
        return [*draft.tokens[0, :kept].tolist(), int(self.bonus)]

    def _choose(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        """The target's own token behind each of ``logits`` ``[1, n, V]``: int64 ``[1, n]``."""
        if self.greedy:
            return logits.argmax(-1)
        places = torch.arange(logits.shape[1], device=self.device)
        return race(self._distribution(logits)[0], self._sampling(position), places)[None]

    def _sampling(self, position: int) -> DraftSampling:
        return DraftSampling(
            temperature=self.temperature,
            seed=torch.tensor([self.seed], device=self.device),
            position=torch.tensor([position], device=self.device),
        )

    def _distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """float32 ``[1, n, V]``, as plain sampling would use it."""
        scores = logits[0].float() / self.temperature
        return torch.softmax(self.warp(None, scores), dim=-1)[None]  # type: ignore[arg-type]

    def _run_target(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.target(ids, past_key_values=self.cache, use_cache=True, output_hidden_states=True)
        features = torch.cat([output.hidden_states[layer] for layer in self.layers], dim=-1)
        return output.logits, features

    def _commit(self, features: torch.Tensor) -> None:
        count = features.shape[1]
        positions = torch.arange(self.committed, self.committed + count, device=self.device)[None]
        fresh = self.drafter.context_key_values(features, positions)
        if self.context:
            fresh = [
                (torch.cat([old[0], new[0]], 2), torch.cat([old[1], new[1]], 2))
                for old, new in zip(self.context, fresh, strict=True)
            ]
        self.context = fresh
        self.committed += count

    def _forget(self, rejected: int) -> None:
        if rejected:
            self.cache.crop(-rejected)


def check_request(drafter: DominoDraftModel, target: PreTrainedModel, input_ids: torch.Tensor, temperature: float):
    """Refuse what cannot be generated, in words."""
    if input_ids.ndim != 2 or input_ids.shape[0] != 1 or input_ids.shape[1] < 1:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}, expected (1, n) with n >= 1: call once per prompt"
        )
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy) or more")
    config = target.config.get_text_config()
    expected = drafter.domino
    for name, found, wanted in (
        ("hidden_size", config.hidden_size, expected.H),
        ("num_hidden_layers", config.num_hidden_layers, expected.num_target_layers),
    ):
        if found != wanted:
            raise ValueError(
                f"the target's {name} is {found}, but the drafter was trained for {wanted}; pair them again"
            )
    rows = cast(torch.Tensor, target.get_input_embeddings().weight).shape[0]
    if rows < expected.V:
        raise ValueError(f"the target's embedding has {rows} rows, but the drafter's vocabulary is {expected.V}")


def stop_ids(target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> set[int]:
    """Token ids that end a response: those at which ``generate`` stops; with a tokenizer also its own end and the
    target's, which a hand-made generation config may have left out."""
    sources = [target.generation_config.eos_token_id]  # type: ignore[union-attr]
    if tokenizer is not None:
        sources += [target.config.eos_token_id, tokenizer.eos_token_id]
    return {one for found in sources for one in (found if isinstance(found, list) else [found]) if one is not None}


def _warpers(top_k: int, top_p: float) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers
