"""Lossless speculative generation under Transformers: draft, verify, commit, with both models' caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.shared_noise import SharedNoise
from domino_sglang.core.tree import DraftTree, draft_tree, select, walk
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
        num_draft_tokens: int | None = None,
        topk: int = 4,
        num_steps: int | None = None,
        head: bool = True,
    ) -> SpecOutput:
        """Continue a prompt; the text is the target's own, and depends on the target and the seed alone.

        Greedy output equals ``target.generate(do_sample=False)`` token for token as long as the target computes a
        tree and a single token alike (float32; in bfloat16 up to ties within rounding). A sampled token is the argmax
        of the target's logits plus the noise of its position (:mod:`~domino_sglang.core.shared_noise`).

        Args:
            target: any Transformers causal LM with the drafter's vocabulary and hidden size.
            input_ids: int64 ``[1, n]``, n at least 1.
            temperature: 0 is greedy.
            top_k, top_p: change the target's distribution as Transformers' warpers do; the draft needs no such change.
            seed: of the noise.
            stop_token_ids: None takes the target's ``eos_token_id``.
            streamer: gets the prompt, then committed tokens, as in ``generate``.
            callback: gets each step's committed tokens.
            num_draft_tokens: rows that the target reads a step, its own last token included; None is the block size.
            topk: paths that are drafted side by side, and children of each; 1 is a chain.
            num_steps: depth of the tree at most; None is the number of proposals in a block.
            head: False drafts from the base logits alone.

        Raises:
            ValueError: a batch, an empty prompt, a negative temperature, a tree that cannot be drafted or verified, or
                a target that does not fit.
        """
        check_request(self, target, input_ids, temperature)
        shape = TreeShape.of(self.domino, num_draft_tokens, topk, num_steps)
        run = _Run(self, target, temperature, seed, _warpers(top_k, top_p), shape, head)
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
            step = run.step()
            output.acceptance.append(len(step))
        if streamer is not None:
            streamer.end()
        output.sequences = torch.cat([input_ids, input_ids.new_tensor([new])], dim=1)
        return output


@dataclass(frozen=True)
class TreeShape:
    """Of the trees of one request, under SGLang's names for them.

    Attributes:
        num_draft_tokens: rows of a tree at most, its root included.
        topk: paths side by side, and children of each.
        num_steps: greatest depth.
    """

    num_draft_tokens: int
    topk: int
    num_steps: int

    @classmethod
    def of(cls, config: DominoConfig, num_draft_tokens: int | None, topk: int, num_steps: int | None) -> TreeShape:
        """The shape in force, for a drafter.

        Raises:
            ValueError: a number is out of range.
        """
        shape = cls(
            config.block_size if num_draft_tokens is None else num_draft_tokens,
            topk,
            config.S if num_steps is None else num_steps,
        )
        for name, value, most in (("topk", topk, config.V), ("num_steps", shape.num_steps, config.S)):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}, expected 1 to {most}")
        if shape.num_draft_tokens < 1:
            raise ValueError(f"num_draft_tokens is {num_draft_tokens}, expected 1 (no proposal) or more")
        return shape


class _Run:
    """One request: the target's cache, the drafter's context, and the token that neither has read."""

    def __init__(
        self,
        drafter: DominoDraftModel,
        target: PreTrainedModel,
        temperature: float,
        seed: int,
        warp: LogitsProcessorList,
        shape: TreeShape,
        head: bool,
    ):
        self.drafter, self.target, self.warp, self.shape, self.head = drafter, target, warp, shape, head
        self.embedding = cast(torch.Tensor, target.get_input_embeddings().weight)
        self.lm_head = cast(torch.Tensor, target.get_output_embeddings().weight)
        self.layers = [layer + 1 for layer in drafter.domino.target_layer_ids]
        self.device = self.embedding.device
        self.temperature, self.seed = temperature, torch.tensor([seed], device=self.device)
        self.cache = DynamicCache(config=target.config)
        self.context: list[KeyValue] = []
        self.committed = 0
        self.bonus = torch.zeros(1, dtype=torch.long, device=self.device)

    def prefill(self, input_ids: torch.Tensor) -> int:
        """Read the prompt; returns the first new token."""
        input_ids = input_ids.to(self.device)
        logits, features = self._run_target(input_ids, None, None)
        self._commit(features)
        self.bonus = self._choose(logits[:, -1:], torch.tensor([[-1]], device=self.device))[0]
        return int(self.bonus)

    def step(self) -> list[int]:
        """One draft and verify step; returns the committed tokens, the new bonus last."""
        tree = self._draft()
        positions, mask = self.committed + tree.depth, None
        if self.shape.topk > 1:
            mask = self._mask(tree)
        logits, features = self._run_target(tree.tokens[None], positions[None], mask)
        found = walk(tree, self._choose(logits, tree.depth[None])[0], self.shape.num_steps)
        length = int(found.commit_len)
        kept = found.rows[0, :length]
        keep_rows(self.cache, self.committed, kept)
        self._commit(features[:, kept])
        self.bonus = found.bonus
        return found.tokens[0, :length].tolist()

    def _draft(self) -> DraftTree:
        position = torch.tensor([self.committed], device=self.device)
        z, base_logits = self.drafter.read_block(
            self.bonus, position, self.context, embedding=self.embedding, lm_head=self.lm_head
        )
        candidates = draft_tree(
            self.drafter.head_weights(),
            z=z,
            base_logits=base_logits,
            bonus_tokens=self.bonus,
            embedding=self.embedding,
            pure_draft_prefix_len=self.drafter.domino.pure_draft_prefix_len,
            beam=self.shape.topk,
            children=self.shape.topk,
            depth=self.shape.num_steps,
            noise=self._noise(self.temperature) if self.temperature > 0 else None,
            head=self.head,
        )
        return select(candidates, self.bonus, min(self.shape.num_draft_tokens, candidates.number + 1))

    def _mask(self, tree: DraftTree) -> torch.Tensor:
        """``[1, 1, T, committed + T]``, added to attention scores: a node sees the context and its ancestors."""
        dtype = self.embedding.dtype
        sees = torch.zeros(tree.total, tree.total, dtype=torch.bool, device=self.device)
        sees.scatter_(1, tree.ancestors(self.shape.num_steps), True)
        block = torch.zeros(sees.shape, dtype=dtype, device=self.device).masked_fill_(~sees, torch.finfo(dtype).min)
        return F.pad(block, (self.committed, 0))[None, None]

    def _choose(self, logits: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
        """The target's own token behind each of ``logits`` ``[1, n, V]``: int64 ``[1, n]``."""
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = self.warp(None, logits[0].float() / self.temperature)  # type: ignore[arg-type]
        return self._noise(self.temperature).choose(scores[None], ahead)

    def _noise(self, temperature: float) -> SharedNoise:
        device = self.device
        return SharedNoise(
            torch.tensor([temperature], device=device), self.seed, torch.tensor([self.committed], device=device)
        )

    def _run_target(
        self, ids: torch.Tensor, positions: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.target(
            ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=True,
        )
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


def keep_rows(cache: DynamicCache, committed: int, rows: torch.Tensor) -> None:
    """Of what a target has read behind ``committed`` tokens, keep these rows, int64 ``[n]``, rising.

    Raises:
        ValueError: a layer's cache cannot give up what lies in between.
    """
    read = cache.get_seq_length() - committed
    if torch.equal(rows, torch.arange(len(rows), device=rows.device)):
        if len(rows) < read:
            cache.crop(len(rows) - read)
        return
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise ValueError(
                f"the target keeps a {type(layer).__name__}, which cannot give up the branches of a tree; pass topk=1"
            )
        for name in ("keys", "values"):
            held = getattr(layer, name)
            moved = held[:, :, committed:].index_select(2, rows)
            setattr(layer, name, torch.cat([held[:, :, :committed], moved], 2))


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
