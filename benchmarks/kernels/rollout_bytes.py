"""Bytes of W2 that a proposal reads, counted over real drafting: a full scan, SGLang's pool, and the certified scan."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from domino_sglang.core.certified_scan import TILE, Best, Scores, Shadow, best_tokens, shadow_of
from domino_sglang.core.head import Draft
from domino_sglang.demo import prepare_target
from domino_sglang.hf import DominoDraftModel
from domino_sglang.measure.tables import aligned
from domino_sglang.measure.workloads import from_jsonl

POOL = 2048
"""Tokens that SGLang's function scores by default: those of the highest base logit anywhere in the block."""

BYTES_PER_WEIGHT = 2
BYTES_PER_SCORE = 4


@dataclass
class ByteCount:
    """What the corrected proposals of one request at a time would have read.

    Attributes:
        shadow: None where a full scan is the plan.
        tokens, tiles: of each proposal, how many had to be scored exactly, and in how many tiles.
        same: proposals whose certified token is the full scan's. in_pool: whose token SGLang's pool holds.
    """

    w2: torch.Tensor
    prefix: int
    shadow: Shadow | None
    tokens: list[int] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)
    same: int = 0
    in_pool: int = 0

    def block(self, draft: Draft, base_logits: torch.Tensor) -> None:
        rows = slice(self.prefix, None)
        scores = Scores(base_logits[0, rows], draft.correction[0, rows], self.w2)
        drafted = draft.tokens[0, rows]
        best = best_tokens(scores, self.shadow)
        self.same += int((best.tokens[:, 0] == drafted).sum())
        pool = base_logits[0].float().amax(0).topk(min(POOL, self.w2.shape[0])).indices
        self.in_pool += int(torch.isin(drafted, pool).sum())
        self.tokens += best.rescored.sum(1).tolist()
        self.tiles += tiles_of(best).sum(1).tolist()

    @property
    def full(self) -> int:
        """Bytes of W2."""
        return self.w2.numel() * BYTES_PER_WEIGHT

    def certified(self) -> torch.Tensor:
        """Bytes of each proposal: the shadow, one row of W2 and two scores a tile to know what has to be reached, and
        the shadow again and exact rows where it is."""
        if self.shadow is None:
            return torch.full((len(self.tokens),), float(self.full))
        vocab, rank = self.w2.shape
        row, tiles = rank * BYTES_PER_WEIGHT, -(-vocab // TILE)
        once = vocab * self.shadow.bytes_per_row + tiles * (row + 2 * BYTES_PER_SCORE)
        again = torch.tensor(self.tiles) * TILE * self.shadow.bytes_per_row + torch.tensor(self.tokens) * row
        return (once + again).double()


class RecordedDrafter(DominoDraftModel):
    """Shows each block it drafts to ``seen``."""

    seen: ByteCount | None = None

    def propose(self, *args, **options) -> tuple[Draft, torch.Tensor]:
        draft, base_logits = super().propose(*args, **options)
        if self.seen is not None:
            self.seen.block(draft, base_logits)
        return draft, base_logits


def tiles_of(best: Best) -> torch.Tensor:
    """``[B, tiles]``: those with a token that was scored exactly."""
    padded = torch.nn.functional.pad(best.rescored, (0, -best.rescored.shape[1] % TILE))
    return padded.unflatten(1, (-1, TILE)).any(-1)


def count_bytes(drafter: Path, prompts: Path, target: str | None, max_tokens: int) -> ByteCount:
    """Draft for every prompt, greedily and one request at a time.

    Raises:
        CheckpointError, WorkloadError: the drafter or the prompts cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = from_jsonl(prompts)
    path = target or str(prepare_target())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    recorded = RecordedDrafter.from_pretrained(drafter, dtype=torch.float32)
    w2 = recorded.head_weights().w2.detach()
    count = recorded.seen = ByteCount(w2, recorded.domino.pure_draft_prefix_len, shadow_of(w2))
    for prompt in tqdm(asked, desc="drafting", unit="prompt"):
        messages = [dict(message) for message in prompt.messages]
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        recorded.spec_generate(model, encoded["input_ids"], max_new_tokens=max_tokens)
    return count


def table(count: ByteCount) -> Iterator[str]:
    """Lines: how each way chooses, its bytes a proposal, and how often its token is the full scan's."""
    number, (vocab, rank) = len(count.tokens), count.w2.shape
    shadow, certified = count.shadow, count.certified()
    yield f"W2 {vocab} x {rank} in 16 bits, {number} corrected proposals, one request at a time; base logits apart"
    pool = min(POOL, vocab) * rank * BYTES_PER_WEIGHT
    rows = [
        (name, f"{mean / 1e3:.0f}", f"{p99 / 1e3:.0f}", f"1/{count.full / mean:.1f}", f"{same / number:.2%}")
        for name, mean, p99, same in (
            ("full scan", count.full, count.full, number),
            (f"SGLang, pool {POOL}", pool, pool, count.in_pool),
            ("certified scan", float(certified.mean()), float(certified.quantile(0.99)), count.same),
        )
    ]
    yield from aligned(rows, ("", "KB a proposal", "p99", "of W2", "same token"), right=range(1, 5))
    if shadow is None:
        yield "the spectrum of W2 is flat: the certified scan scores every token"
        return
    tokens, tiles = torch.tensor(count.tokens).double(), torch.tensor(count.tiles).double()
    yield f"shadow: {shadow.kept} of {rank} directions, {vocab * shadow.bytes_per_row / 1e3:.0f} KB"
    total = -(-vocab // TILE)
    yield (
        f"scored exactly besides one token a tile: {tokens.mean():.0f} tokens (p99 {tokens.quantile(0.99):.0f}) in "
        f"{tiles.mean():.0f} of {total} tiles (p99 {tiles.quantile(0.99):.0f})"
    )


def run(options: argparse.Namespace) -> int:
    """``--count-bytes DRAFTER PROMPTS``."""
    drafter, prompts = options.count_bytes
    for line in table(count_bytes(drafter, prompts, options.target, options.max_tokens)):
        print(line)
    return 0
