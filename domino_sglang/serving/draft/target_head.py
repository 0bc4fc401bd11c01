"""What the drafter borrows from the target under SGLang: its embedding and its LM head, sharded or whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.logits_processor import should_apply_lm_head_quant_method
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.lora.layers import unwrap_lora_layer
from sglang.srt.runtime_context import get_parallel
from sglang.srt.speculative.dflash_utils import is_dense_head_weight

from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.core.head import VocabShard
from domino_sglang.serving.draft.proposer import TargetHead


def target_head(model: Any, config: DominoConfig) -> TargetHead:
    """Borrow from a loaded target.

    Raises:
        CheckpointError: the target has no LM head the drafter could use.
    """
    embedding = unwrap_lora_layer(model.get_input_embeddings())
    lm_head = unwrap_lora_layer(getattr(model, "lm_head", None))
    if lm_head is None:
        raise CheckpointError(f"the target {type(model).__name__} has no lm_head, which a Domino drafter reads")
    start, columns, padded_columns = _own_columns(lm_head, config)
    weight = getattr(lm_head, "weight", None)
    rows = weight[:columns] if weight is not None and is_dense_head_weight(weight) else None
    if rows is None or should_apply_lm_head_quant_method(lm_head, getattr(lm_head, "quant_method", None)):
        base_logits = _base_logits_of_method(lm_head, columns)
    else:
        base_logits = _dense_base_logits(rows)
    group = get_parallel().tp_group
    # A head that every rank holds in full needs no exchange: each finds the whole answer alone.
    whole = group.world_size == 1 or columns == config.vocab_size
    return TargetHead(
        embed=embedding,
        table=_table(embedding),
        base_logits=base_logits,
        shard=VocabShard(start, None if whole else _all_gather(group)),
        columns=columns,
        padded_columns=padded_columns,
        lm_head=rows,
    )


def _table(embedding: Any) -> torch.Tensor | None:
    """The matrix whose rows are what ``embedding`` returns, or None where it shards, scales or converts them."""
    weight = getattr(embedding, "weight", None)
    plain = type(embedding).forward in (torch.nn.Embedding.forward, VocabParallelEmbedding.forward)
    whole = getattr(embedding, "tp_size", 1) == 1 and getattr(embedding, "output_dtype", None) is None
    return weight if plain and whole and is_dense_head_weight(weight) else None


def _own_columns(lm_head: Any, config: DominoConfig) -> tuple[int, int, int]:
    shard = getattr(lm_head, "shard_indices", None)
    if shard is None:
        return 0, config.vocab_size, config.vocab_size
    if shard.num_added_elements:
        raise CheckpointError(
            f"the target's LM head holds {shard.num_added_elements} added tokens, which the drafter was not trained "
            "with; serve the target without added vocabulary"
        )
    if not shard.num_org_elements:
        raise CheckpointError(
            f"--tp-size leaves this rank none of the {config.vocab_size} tokens of the vocabulary; lower --tp-size"
        )
    return shard.org_vocab_start_index, shard.num_org_elements, shard.num_org_elements_padded


def _dense_base_logits(weight: torch.Tensor):
    def base_logits(hidden_states: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden_states.to(weight.dtype), weight)

    return base_logits


def _base_logits_of_method(lm_head: Any, columns: int):
    def base_logits(hidden_states: torch.Tensor) -> torch.Tensor:
        return lm_head.quant_method.apply(lm_head, hidden_states, None)[:, :columns]

    return base_logits


def _all_gather(group):
    def all_gather(mine: torch.Tensor) -> torch.Tensor:
        # Not all_gather_into_tensor, which SGLang registers for the platform's device alone: not for a CPU's tensors.
        return group.all_gather(mine.contiguous()[None], dim=0)

    return all_gather
