"""The loss against hand-computed values, the schedules, and the sampled vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from domino_sglang.core.head import DominoHead, rollout
from domino_sglang.training.loop import loss as loss_module
from domino_sglang.training.loop.curriculum import base_weight, learning_rate, proposals_at
from domino_sglang.training.loop.loss import block_loss, corrections, position_weights, teacher_forced_states
from domino_sglang.training.loop.vocabulary import FULL, Candidates, draw_candidates
from domino_sglang.training.recipe import TrainRecipe

V, H, S, N = 23, 8, 3, 4


@pytest.fixture
def parts():
    torch.manual_seed(0)
    head = DominoHead(hidden_size=H, vocab_size=V, gru_hidden_dim=6, emb_dim=5, gru_bias=True)
    tokens = torch.randint(0, V, (N, S + 1))
    valid = torch.ones(N, S, dtype=torch.bool)
    valid[1, 2:] = False
    valid[3] = False
    return {
        "weights": head.weights(),
        "z": torch.randn(N, S, H, requires_grad=True),
        "tokens": tokens,
        "valid": valid,
        "embedding": torch.randn(V, H),
        "lm_head": torch.randn(V, H),
        "gru": head.prefix_gru,
    }


def run(parts, **changes):
    options = {"pure_draft_prefix_len": 0, "base_weight": 0.25, "gamma": 2.0} | changes
    labelled = parts["valid"].flatten().nonzero().squeeze(1)
    given = (parts["weights"], parts["z"], parts["tokens"], labelled)
    return block_loss(*given, embedding=parts["embedding"], lm_head=parts["lm_head"], **options)


def by_hand(parts, prefix=0, mix=0.25, gamma=2.0, follow=None):
    """Token by token, scalars only."""
    weights, total, weight_sum = parts["weights"], 0.0, 0.0
    finals, bases = 0.0, 0.0
    for n in range(N):
        state, previous = torch.zeros(1, 6), parts["tokens"][n, 0]
        for j in range(S):
            state = parts["gru"](parts["embedding"][previous][None, None], state[None])[1][0]
            base = parts["lm_head"] @ parts["z"][n, j]
            c = F.silu(weights.w1 @ torch.cat([parts["z"][n, j], state[0]]))
            logits = base + (weights.w2 @ c if j >= prefix else 0)
            label = parts["tokens"][n, j + 1]
            if parts["valid"][n, j]:
                w = math.exp(-j / gamma)
                final, plain = (float(torch.logsumexp(x, 0) - x[label]) for x in (logits, base))
                finals, bases, weight_sum = finals + w * final, bases + w * plain, weight_sum + w
                total += w * ((1 - mix) * final + mix * plain)
            previous = label if follow is None else logits.argmax()
    return total, finals, bases, weight_sum


@pytest.mark.parametrize("columns", ["all", "some"])
@pytest.mark.parametrize("distill", [0.4, 1.0])
def test_distillation_is_a_cross_entropy_against_the_teacher(parts, distill, columns):
    """Row by row ``-sum_v wanted(v) log softmax(logits)(v)``: wanted mixes the teacher's distribution and the label."""
    teacher = torch.randn(N, S, H)
    some = Candidates(torch.arange(V), torch.linspace(0, 1, V)) if columns == "some" else FULL
    got = run(parts, teacher=teacher, distill=distill, candidates=some)
    offset = torch.zeros(V) if some is FULL else some.offset
    weights, total = parts["weights"], 0.0
    states = teacher_forced_states(weights, parts["embedding"][parts["tokens"][:, :-1]])
    correction = corrections(weights, parts["z"], states)
    for n in range(N):
        for j in range(S):
            if not parts["valid"][n, j]:
                continue
            wanted = distill * torch.softmax(parts["lm_head"] @ teacher[n, j] + offset, 0)
            wanted[parts["tokens"][n, j + 1]] += 1 - distill
            base = parts["lm_head"] @ parts["z"][n, j] + offset
            final = base + weights.w2 @ correction[n, j]
            crosses = [float(-(wanted * torch.log_softmax(x, 0)).sum().detach()) for x in (final, base)]
            total += math.exp(-j / 2.0) * (0.75 * crosses[0] + 0.25 * crosses[1])
    assert float(got.total) == pytest.approx(total, rel=1e-5)


def test_a_drafter_that_equals_its_teacher_has_no_gradient_from_distillation(parts):
    teacher = parts["z"].detach().clone()
    got = run(parts, teacher=teacher, distill=1.0, pure_draft_prefix_len=S)
    assert float(torch.autograd.grad(got.total, parts["z"])[0].abs().max()) < 1e-6


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_loss_equals_the_hand_computed_one(parts, prefix):
    got = run(parts, pure_draft_prefix_len=prefix)
    total, final, base, weight = by_hand(parts, prefix=prefix)
    for found, wanted in ((got.total, total), (got.final, final), (got.base, base), (got.weight, weight)):
        assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert int(got.labels) == 8


def test_training_time_test_reads_its_own_tokens(parts):
    got = run(parts, method="ttt")
    assert float(got.total) == pytest.approx(by_hand(parts, follow="own")[0], rel=1e-5)


def test_one_number_worked_out_on_paper():
    """Two tokens, one proposal: base logits (0, ln 3), no correction, label 1: loss ln(4/3)."""
    head = DominoHead(hidden_size=1, vocab_size=2, gru_hidden_dim=1, emb_dim=1)
    torch.nn.init.zeros_(head.embed_proj[2].weight)
    got = block_loss(
        head.weights(),
        torch.ones(1, 1, 1),
        torch.tensor([[0, 1]]),
        torch.tensor([0]),
        embedding=torch.ones(2, 1),
        lm_head=torch.tensor([[0.0], [math.log(3.0)]]),
        pure_draft_prefix_len=0,
        base_weight=0.5,
        gamma=7.0,
    )
    assert float(got.total.detach()) == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_corrected_logits_by_hand():
    """l = (1.20, 0.80, 0.50) plus (0.03, -0.01, 0.02) gives (1.23, 0.79, 0.52)."""
    from domino_sglang.core.head import corrected_logits

    got = corrected_logits(torch.tensor([1.20, 0.80, 0.50]), torch.ones(1), torch.tensor([[0.03], [-0.01], [0.02]]))
    torch.testing.assert_close(got, torch.tensor([1.23, 0.79, 0.52]))


def test_teacher_forcing_agrees_with_the_rollout_on_its_own_path(parts):
    """On the tokens the rollout chose, teacher forcing gives the same corrections."""
    with torch.no_grad():
        base = parts["z"] @ parts["lm_head"].T
        draft = rollout(
            parts["weights"],
            z=parts["z"],
            base_logits=base,
            bonus_tokens=parts["tokens"][:, 0],
            embedding=parts["embedding"],
            pure_draft_prefix_len=0,
        )
        read = torch.cat([parts["tokens"][:, :1], draft.tokens[:, :-1]], 1)
        states = teacher_forced_states(parts["weights"], parts["embedding"][read])
        torch.testing.assert_close(corrections(parts["weights"], parts["z"], states), draft.correction)


def test_lambda_decides_which_term_has_a_gradient(parts):
    for mix, head_learns in ((1.0, False), (0.5, True), (0.0, True)):
        gradient = torch.autograd.grad(run(parts, base_weight=mix).total, parts["weights"].w1, allow_unused=True)[0]
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == head_learns
    for prefix, mix in ((0, 1.0), (S, 0.3)):  # a plain DFlash drafter is all prefix: only base logits count
        got = run(parts, base_weight=mix, pure_draft_prefix_len=prefix)
        assert float(got.total) == pytest.approx(float(got.base), rel=1e-6)


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_chunked_rows_change_neither_loss_nor_gradient(parts, monkeypatch, distill):
    options = {"teacher": torch.randn(N, S, H), "distill": distill}
    whole = run(parts, **options)
    gradient = torch.autograd.grad(whole.total, parts["z"])[0]
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 3 * V + 1)
    chunked = run(parts, **options)
    torch.testing.assert_close(chunked.total, whole.total)
    torch.testing.assert_close(torch.autograd.grad(chunked.total, parts["z"])[0], gradient)
    assert int(chunked.correct) == int(whole.correct)


def test_all_tokens_as_candidates_is_the_full_softmax(parts):
    every = Candidates(torch.arange(V), torch.zeros(V))
    torch.testing.assert_close(run(parts, candidates=every).total, run(parts).total)


def test_candidates_hold_every_label_and_stand_for_the_whole_vocabulary():
    frequent, labels = torch.tensor([2, 3, 50]), torch.tensor([7, 3, 90])
    drawn = draw_candidates(frequent, labels, 100, 10, torch.Generator().manual_seed(1))
    assert len(drawn.ids) == 5 + 10 and torch.equal(drawn.ids, drawn.ids.sort().values)
    assert torch.equal(drawn.ids[drawn.columns(labels)], labels)
    assert float(drawn.offset.exp().sum()) == pytest.approx(100, rel=1e-5)
    assert all(float(drawn.offset[i]) == 0 for i in drawn.columns(torch.tensor([2, 3, 7, 50, 90])))
    assert draw_candidates(torch.empty(0, dtype=torch.long), labels, 100, 10, torch.Generator()) is FULL


def test_position_weights():
    torch.testing.assert_close(position_weights(3, 2.0), torch.tensor([1.0, math.exp(-0.5), math.exp(-1.0)]))


def test_lambda_schedule():
    recipe = TrainRecipe(steps=100, lambda_start=1.0, lambda_decay_ratio=0.5)
    assert [base_weight(s, recipe) for s in (0, 25, 50, 99)] == [1.0, 0.5, 0.0, 0.0]
    assert base_weight(0, TrainRecipe(steps=100, lambda_start=0.0)) == 0.0
    assert base_weight(0, TrainRecipe(steps=100, lambda_decay_ratio=0.0)) == 0.0
    half = TrainRecipe(steps=10, lambda_start=0.6, lambda_decay_ratio=1.0)
    assert base_weight(5, half) == pytest.approx(0.3)


def test_block_length_schedule():
    recipe = TrainRecipe(steps=100, first_proposal_ratio=0.3)
    assert [proposals_at(s, recipe, 7) for s in (0, 29, 30, 99)] == [1, 1, 7, 7]
    assert proposals_at(0, TrainRecipe(steps=100), 7) == 7


def test_learning_rate_schedule():
    recipe = TrainRecipe(steps=100, learning_rate=1.0, warmup_ratio=0.1, min_lr_ratio=0.1)
    assert learning_rate(0, recipe) == pytest.approx(0.1)
    assert learning_rate(9, recipe) == pytest.approx(1.0)
    assert learning_rate(55, recipe) == pytest.approx(0.55)
    assert learning_rate(100, recipe) == pytest.approx(0.1)
