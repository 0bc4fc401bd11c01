"""The head against the loop one would write from the paper with nn.GRU and nn.Linear, and its sampler."""

from __future__ import annotations

import threading

import pytest
import torch
from scipy import stats
from torch import nn

from domino_sglang.core.head import (
    DominoHead,
    DraftSampling,
    HeadWeights,
    VocabShard,
    choose,
    corrected_logits,
    gru_step,
    proposal_noise,
    rollout,
)

B, S, H, V, G, R = 5, 6, 12, 40, 10, 7


def setup(gru_bias=False, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    head = DominoHead(hidden_size=H, vocab_size=V, gru_hidden_dim=G, emb_dim=R, gru_bias=gru_bias)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.6)
    z, lm_head, embedding = torch.randn(B, S, H), torch.randn(V, H) * 0.5, torch.randn(V, H)
    head, z, lm_head, embedding = head.to(dtype), z.to(dtype), lm_head.to(dtype), embedding.to(dtype)
    return head, z, z @ lm_head.T, torch.randint(V, (B,)), embedding


@torch.no_grad()
def by_hand(head, z, base, bonus, embedding, prefix_len, pick):
    """One request at a time; the whole prefix goes through nn.GRU anew for every proposal."""
    tokens = []
    for b in range(len(bonus)):
        block, row = [int(bonus[b])], []
        for j in range(z.shape[1]):
            _, state = head.prefix_gru(embedding[block][None])
            logits = base[b, j].float()
            if j + 1 > prefix_len:
                w1, w2 = head.embed_proj[0], head.embed_proj[2]
                hidden = torch.cat([z[b, j], state[0, 0]])
                logits = logits + w2(torch.nn.functional.silu(w1(hidden))).float()
            row.append(pick(logits, b, j))
            block.append(row[-1])
        tokens.append(row)
    return torch.tensor(tokens)


def draw(head, z, base, bonus, embedding, prefix_len, sampling=None, **options):
    with torch.no_grad():
        return rollout(
            head.weights(),
            z=z,
            base_logits=base,
            bonus_tokens=bonus,
            embedding=embedding,
            pure_draft_prefix_len=prefix_len,
            sampling=sampling,
            **options,
        )


@pytest.mark.parametrize("gru_bias", [False, True])
@pytest.mark.parametrize("prefix_len", [0, 1, 3, S])
def test_greedy_rollout_equals_the_plain_loop(prefix_len, gru_bias):
    parts = setup(gru_bias)
    draft = draw(*parts, prefix_len)
    assert torch.equal(draft.tokens, by_hand(*parts, prefix_len, lambda logits, b, j: int(logits.argmax())))
    assert draft.tokens.dtype == torch.int64 and draft.log_q.dtype == torch.float32
    assert draft.correction.shape == (B, S, R) and (draft.correction[:, :prefix_len] == 0).all()
    assert prefix_len == S or (draft.correction[:, prefix_len:] != 0).any()


def test_tokens_alone_are_the_same_tokens():
    parts = setup()
    whole, alone = draw(*parts, 1), draw(*parts, 1, tokens_only=True)
    assert torch.equal(alone.tokens, whole.tokens) and torch.equal(alone.correction, whole.correction)
    assert alone.log_q.isnan().all() and alone.logsumexp.isnan().all()


def test_the_correction_matters():
    parts = setup()
    assert not torch.equal(draw(*parts, 0).tokens, draw(*parts, S).tokens)


def test_sampled_rollout_equals_the_plain_loop():
    parts = setup()
    sampling = DraftSampling(torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0]), torch.arange(B) * 99, torch.arange(B) + 7)
    noise = [proposal_noise(sampling, j, V) for j in range(S)]

    def pick(logits, b, j):
        temperature = float(sampling.temperature[b])
        return int(logits.argmax()) if temperature == 0 else int((logits / temperature - noise[j][b]).argmax())

    assert torch.equal(draw(*parts, 1, sampling).tokens, by_hand(*parts, 1, pick))


def test_greedy_requests_draft_the_same_in_a_sampled_batch():
    parts = setup()
    sampling = DraftSampling(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), torch.arange(B), torch.arange(B))
    mixed, greedy = draw(*parts, 1, sampling), draw(*parts, 1)
    assert torch.equal(mixed.tokens[::2], greedy.tokens[::2]) and torch.equal(mixed.log_q[::2], greedy.log_q[::2])


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_what_the_draft_reports_gives_back_q(temperature):
    head, z, base, bonus, embedding = setup()
    sampling = temperature and DraftSampling(torch.full((B,), temperature), torch.arange(B), torch.arange(B))
    draft = draw(head, z, base, bonus, embedding, 1, sampling)
    logits = corrected_logits(base, draft.correction, head.weights().w2).detach() / (temperature or 1.0)
    assert torch.allclose(logits.logsumexp(-1), draft.logsumexp, atol=1e-5)
    log_q = logits.log_softmax(-1).gather(-1, draft.tokens[..., None])[..., 0]
    assert torch.allclose(log_q, draft.log_q, atol=1e-5)


def test_teacher_forcing_is_the_rollout_read_at_once():
    """Training reads the block's tokens with one nn.GRU call; on the drafter's own tokens both see the same logits."""
    head, z, base, bonus, embedding = setup(seed=4)
    draft = draw(head, z, base, bonus, embedding, 1)
    with torch.no_grad():
        read = torch.cat([bonus[:, None], draft.tokens[:, :-1]], 1)
        states, _ = head.prefix_gru(embedding[read])
        correction = head.embed_proj(torch.cat([z, states], -1))
        correction[:, :1] = 0
    assert torch.equal((base + correction).argmax(-1), draft.tokens)


def test_corrected_logits_by_hand():
    """l = (1.20, 0.80, 0.50) and a correction (0.03, -0.01, 0.02) give (1.23, 0.79, 0.52)."""
    silu_of_one = torch.nn.functional.silu(torch.tensor(1.0))
    weights = HeadWeights(
        w_ih=torch.zeros(3, 1),
        w_hh=torch.zeros(3, 1),
        w1=torch.tensor([[1.0, 5.0]]),  # the state of an all-zero GRU stays zero, so the 5 must not show
        w2=torch.tensor([[0.03], [-0.01], [0.02]]) / silu_of_one,
    )
    base = torch.tensor([[[1.20, 0.80, 0.50]]])
    draft = rollout(
        weights,
        z=torch.ones(1, 1, 1),
        base_logits=base,
        bonus_tokens=torch.tensor([2]),
        embedding=torch.randn(3, 1),
        pure_draft_prefix_len=0,
    )
    logits = corrected_logits(base[:, 0], draft.correction[:, 0], weights.w2)
    assert torch.allclose(logits, torch.tensor([[1.23, 0.79, 0.52]]), atol=1e-6)
    assert draft.tokens.tolist() == [[0]]


def test_gru_step_is_pytorchs_cell():
    for bias in (False, True):
        cell = nn.GRUCell(H, G, bias=bias)
        weights = HeadWeights(
            cell.weight_ih,
            cell.weight_hh,
            torch.zeros(R, H + G),
            torch.zeros(V, R),
            *([cell.bias_ih, cell.bias_hh] * bias),
        )
        x, state = torch.randn(B, H), torch.randn(B, G)
        assert torch.allclose(gru_step(weights, x, state), cell(x, state), atol=1e-6)


def test_state_dict_names_are_the_checkpoints():
    names = set(DominoHead(hidden_size=H, vocab_size=V, gru_hidden_dim=G, emb_dim=R).state_dict())
    assert names == {
        "prefix_gru.weight_ih_l0",
        "prefix_gru.weight_hh_l0",
        "embed_proj.0.weight",
        "embed_proj.2.weight",
    }


def test_ties_go_to_the_lowest_id():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    assert choose(logits, 0, None)[0].tolist() == [1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_proposals_follow_q(temperature):
    draws, vocab = 200_000, 12
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(2)) * 2
    logits[3] = -torch.inf
    sampling = DraftSampling(torch.full((draws,), temperature), torch.arange(draws), torch.full((draws,), 3))
    token, log_q, logsumexp = choose(logits.expand(draws, vocab), 2, sampling)
    q = (logits.double() / temperature).softmax(0)
    count = torch.bincount(token, minlength=vocab)
    assert count[3] == 0
    keep = q > 0
    assert stats.chisquare(count[keep].numpy(), (q[keep] * draws).numpy()).pvalue > 1e-4
    assert torch.allclose(log_q, q.log().float()[token], atol=1e-5)
    assert torch.allclose(logsumexp, (logits / temperature).logsumexp(0).expand(draws), atol=1e-5)


def test_successive_proposals_are_drawn_independently():
    draws, vocab = 200_000, 8
    logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(3))
    sampling = DraftSampling(torch.ones(draws), torch.full((draws,), 11), torch.arange(draws))
    first, second = (choose(logits[j].expand(draws, vocab), j, sampling)[0] for j in range(2))
    count = torch.bincount(first * vocab + second, minlength=vocab * vocab).numpy()
    distribution = logits.double().softmax(-1)
    assert stats.chisquare(count, (distribution[0][:, None] * distribution[1] * draws).flatten().numpy()).pvalue > 1e-4


def test_a_draw_does_not_depend_on_the_batch():
    logits = torch.randn(B, V)
    sampling = DraftSampling(torch.ones(B), torch.arange(B), torch.arange(B) * 3)
    whole = choose(logits, 4, sampling)[0]
    for b in range(B):
        alone = DraftSampling(sampling.temperature[b : b + 1], sampling.seed[b : b + 1], sampling.position[b : b + 1])
        assert choose(logits[b : b + 1], 4, alone)[0] == whole[b]


@pytest.mark.parametrize("sampled", [False, True])
def test_ranks_agree_with_the_whole_vocabulary(sampled):
    """Two tensor-parallel ranks, as threads, each with half of the columns."""
    head, z, base, bonus, embedding = setup()
    base[:, :, V // 2] = base[:, :, 0]
    sampling = DraftSampling(torch.ones(B), torch.arange(B), torch.arange(B)) if sampled else None
    whole = draw(head, z, base, bonus, embedding, 1, sampling)
    barrier, sent, drafts = threading.Barrier(2, timeout=30), [None, None], [None, None]

    def rank(r):
        def all_gather(mine):
            sent[r] = mine
            barrier.wait()
            ranks = torch.stack(sent)
            barrier.wait()
            return ranks

        columns = slice(r * V // 2, (r + 1) * V // 2)
        w = head.weights()
        with torch.no_grad():
            drafts[r] = rollout(
                HeadWeights(w.w_ih, w.w_hh, w.w1, w.w2[columns]),
                z=z,
                base_logits=base[:, :, columns],
                bonus_tokens=bonus,
                embedding=lambda ids: embedding[ids],
                pure_draft_prefix_len=1,
                sampling=sampling,
                shard=VocabShard(columns.start, all_gather),
            )

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for draft in drafts:
        assert torch.equal(draft.tokens, whole.tokens)
        assert torch.allclose(draft.log_q, whole.log_q, atol=1e-5)
        assert torch.allclose(draft.logsumexp, whole.logsumexp, atol=1e-5)
