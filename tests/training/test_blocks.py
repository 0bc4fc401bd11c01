"""Anchors, labels and masks against a brute-force construction."""

from __future__ import annotations

import pytest
import torch

from domino_sglang.training.loop.anchors import context_mask, cut_blocks, draw_anchors, full_mask
from domino_sglang.training.loop.attention import block_attention
from domino_sglang.training.loop.dataset import Example

BLOCK = 4


def example(length: int, prompt: int, start: int = 100) -> Example:
    return Example(0, "chat", 0.0, torch.arange(start, start + length), prompt, 0)


def test_anchors_are_distinct_response_positions_with_a_next_token():
    for length, prompt in ((20, 5), (8, 6), (7, 5)):
        seen = set()
        for seed in range(50):
            drawn = draw_anchors(example(length, prompt), 6, torch.Generator().manual_seed(seed)).tolist()
            assert drawn == sorted(set(drawn)) and len(drawn) <= 6
            seen |= set(drawn)
        assert seen == set(range(prompt, length - 1))


def test_blocks_hold_the_true_tokens_and_mask_what_is_beyond_the_end():
    examples = [example(12, 3), example(9, 2, start=500)]
    anchors = [torch.tensor([3, 7, 10]), torch.tensor([2])]
    blocks = cut_blocks(examples, anchors, BLOCK)
    assert blocks.anchors.shape == (2, 3)
    for row, sequence in enumerate(examples):
        for place in range(3):
            real = place < len(anchors[row])
            at = int(anchors[row][place]) if real else None
            for k in range(BLOCK):
                inside = real and at + k < len(sequence.ids)
                if inside:
                    assert blocks.tokens[row, place, k] == sequence.ids[at + k]
                if k >= 1:
                    assert bool(blocks.valid[row, place, k - 1]) == bool(inside)
    assert blocks.positions(BLOCK)[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13]
    assert blocks.positions(1)[0].tolist() == [3, 7, 10]


def test_mask_against_brute_force():
    anchors, length = torch.tensor([[2, 5, 6], [1, 1, 9]]), 10
    mask = full_mask(anchors, length, BLOCK)
    rows = 3 * BLOCK
    assert mask.shape == (2, 1, rows, length + rows)
    for b in range(2):
        for q in range(rows):
            for k in range(length + rows):
                block = q // BLOCK
                visible = k < anchors[b, block] if k < length else (k - length) // BLOCK == block
                assert bool(mask[b, 0, q, k]) == bool(visible), (b, q, k)
    assert torch.equal(context_mask(anchors, length)[1, 2], torch.arange(10) < 9)


@pytest.mark.parametrize("kind", ["split", "sdpa", "flex"])
@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
def test_attention_of_many_blocks_equals_one_block_at_a_time(kind, heads):
    torch.manual_seed(0)
    query_heads, kv_heads = heads
    anchors, length, dim = torch.tensor([[2, 5, 6], [1, 1, 9]]), 10, 16
    rows = 3 * BLOCK
    query = torch.randn(2, query_heads, rows, dim)
    context = (torch.randn(2, kv_heads, length, dim), torch.randn(2, kv_heads, length, dim))
    own = (torch.randn(2, kv_heads, rows, dim), torch.randn(2, kv_heads, rows, dim))
    got = block_attention(kind, anchors, length, BLOCK)(query, context, own)
    group = query_heads // kv_heads
    for b in range(2):
        for a in range(3):
            part = slice(a * BLOCK, (a + 1) * BLOCK)
            for h in range(query_heads):
                keys, values = (
                    torch.cat([context[i][b, h // group, : anchors[b, a]], own[i][b, h // group, part]]) for i in (0, 1)
                )
                wanted = (query[b, h, part] @ keys.T / dim**0.5).softmax(-1) @ values
                torch.testing.assert_close(got[b, h, part], wanted, atol=1e-5, rtol=1e-5)


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="split, sdpa or flex"):
        block_attention("magic", torch.zeros(1, 1, dtype=torch.long), 3, BLOCK)


def test_a_block_sees_neither_the_future_nor_other_blocks(chats, target):
    """Through the whole backbone: changing later features or another block's tokens changes nothing."""
    from domino_sglang.training.loop.drafter import TargetEnds, new_drafter

    drafter, ends = new_drafter(chats.drafter, target, 0), TargetEnds.of(target)
    torch.manual_seed(0)
    features = torch.randn(1, 12, 64)
    anchors = torch.tensor([[4, 8]])
    x0 = torch.tensor([[7, 9]])

    def z(features, x0):
        context = drafter.context_key_values(features, torch.arange(12)[None])
        ids = drafter.block_ids(x0).flatten(1)
        positions = (anchors[..., None] + torch.arange(4)).flatten(1)
        return drafter(ends.embedding[ids], positions, context, block_attention("split", anchors, 12, 4))

    with torch.no_grad():
        before = z(features, x0)
        changed = features.clone()
        changed[:, 4:] += 1.0
        torch.testing.assert_close(z(changed, x0)[:, :4], before[:, :4])
        torch.testing.assert_close(z(features, torch.tensor([[7, 20]]))[:, :4], before[:, :4])
        earlier = features.clone()
        earlier[:, 3] += 1.0
        assert not torch.allclose(z(earlier, x0)[:, :4], before[:, :4])
