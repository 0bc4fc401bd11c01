"""Acceptance of any tree on a text that is there already.

Under greedy decoding and under shared noise the text depends on the target and the seed alone, whatever is drafted. So
the target writes each text once, and every way of drafting is held against it afterwards: a node is accepted where it
says what the text says. ``spec_generate`` commits the same tokens step by step; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedModel

from domino_sglang.core.shared_noise import SharedNoise
from domino_sglang.core.tree import Candidates, draft_tree, select, walk
from domino_sglang.hf import DominoDraftModel
from domino_sglang.hf.layers import KeyValue


@dataclass(frozen=True)
class Text:
    """What a target says to a prompt.

    Attributes:
        tokens: int64 ``[N]``, prompt and answer.
        prompt: tokens of the prompt.
        context: the drafter's keys and values of all tokens but the last, by layer.
        temperature: 0 is greedy.
        seed: of the noise.
    """

    tokens: torch.Tensor
    prompt: int
    context: list[KeyValue]
    temperature: float
    seed: int


@torch.inference_mode()
def write_text(
    drafter: DominoDraftModel,
    target: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    stops: set[int],
) -> Text:
    """Let the target answer a prompt ``[1, n]`` by itself, token by token, with the drafter's context beside it."""
    layers = [layer + 1 for layer in drafter.domino.target_layer_ids]
    cache, features = DynamicCache(config=target.config), []
    tokens, read = input_ids, input_ids
    while True:
        output = target(read, past_key_values=cache, use_cache=True, output_hidden_states=True, logits_to_keep=1)
        features.append(torch.cat([output.hidden_states[layer] for layer in layers], -1))
        logits = output.logits[0, -1:].float()
        if temperature > 0:
            noise = _noise(temperature, seed, tokens.shape[1] - 1, input_ids.device)
            read = noise.choose(logits[None] / temperature, torch.zeros_like(read[:, :1]))
        else:
            read = logits.argmax(-1)[None]
        tokens = torch.cat([tokens, read], 1)
        if int(read) in stops or tokens.shape[1] - input_ids.shape[1] >= max_new_tokens:
            break
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    context = drafter.context_key_values(torch.cat(features, 1), positions[None])
    return Text(tokens[0], input_ids.shape[1], context, temperature, seed)


def _noise(temperature: float, seed: int, position: int, device: torch.device) -> SharedNoise:
    return SharedNoise(*(torch.tensor([value], device=device) for value in (temperature, seed, position)))


@dataclass(frozen=True)
class Shape:
    """How candidates are drafted: ``topk`` paths side by side with as many children; 1 is a chain."""

    topk: int
    head: bool = True


class Drafts:
    """What a drafter proposes at every place of some texts, drafted when first asked for."""

    def __init__(self, drafter: DominoDraftModel, target: PreTrainedModel, shape: Shape):
        self.drafter, self.shape = drafter, shape
        self.embedding, self.lm_head = target.get_input_embeddings().weight, target.get_output_embeddings().weight
        self._found: dict[tuple[int, int], Candidates] = {}

    @torch.inference_mode()
    def at(self, text: Text, place: int) -> Candidates:
        """Candidates behind token number ``place`` of a text."""
        key = (id(text), place)
        if key not in self._found:
            self._found[key] = self._draft(text, place)
        return self._found[key]

    def _draft(self, text: Text, place: int) -> Candidates:
        device = text.tokens.device
        bonus = text.tokens[place : place + 1]
        context = [(k[:, :, :place], v[:, :, :place]) for k, v in text.context]
        z, base_logits = self.drafter.read_block(
            bonus, torch.tensor([place], device=device), context, embedding=self.embedding, lm_head=self.lm_head
        )
        return draft_tree(
            self.drafter.head_weights(),
            z=z,
            base_logits=base_logits,
            bonus_tokens=bonus,
            embedding=self.embedding,
            pure_draft_prefix_len=self.drafter.domino.pure_draft_prefix_len,
            beam=self.shape.topk,
            children=self.shape.topk,
            noise=_noise(text.temperature, text.seed, place, device) if text.temperature > 0 else None,
            head=self.shape.head,
        )


def replay(
    texts: Sequence[Text], drafts: Drafts, proposals: float, tick: Callable[[], None] = lambda: None
) -> list[list[int]]:
    """Committed tokens of each step of each text, all texts decoded side by side as one batch.

    Args:
        proposals: verified a step and request, on average over those that are still decoding; the batch's likeliest
            nodes are taken. One text alone gets them all.
        tick: called for every token that a step has committed.

    Returns:
        Per text, the tokens of each step, its last step cut where the text ends.
    """
    places = [text.prompt for text in texts]
    steps: list[list[int]] = [[] for _ in texts]
    while active := [i for i, text in enumerate(texts) if places[i] < len(text.tokens) - 1]:
        batch = _stack([drafts.at(texts[i], places[i]) for i in active])
        roots = torch.stack([texts[i].tokens[places[i]] for i in active])
        total = len(active) + min(round(proposals * len(active)), batch.number * len(active))
        tree = select(batch, roots, total)
        depth = int(batch.depth.max())
        said = torch.stack([_ahead(texts[i].tokens, places[i], depth) for i in active])
        found = walk(tree, said[tree.request, tree.depth], depth)
        for i, committed in zip(active, found.commit_len.tolist(), strict=True):
            committed = min(committed, len(texts[i].tokens) - 1 - places[i])
            steps[i].append(committed)
            places[i] += committed
            for _ in range(committed):
                tick()
    return steps


def _stack(found: Sequence[Candidates]) -> Candidates:
    tokens, parent, score = (torch.cat([getattr(c, name) for c in found]) for name in ("tokens", "parent", "score"))
    return Candidates(tokens, parent, found[0].depth, score)


def _ahead(tokens: torch.Tensor, place: int, depth: int) -> torch.Tensor:
    """The text behind ``place``: int64 ``[depth + 1]``, -1 past its end, which no proposal says."""
    rest = tokens[place + 1 : place + 2 + depth]
    return F.pad(rest, (0, depth + 1 - len(rest)), value=-1)
