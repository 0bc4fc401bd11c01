"""The Transformers backend: checkpoint format, backbone, lossless generation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.hf import DominoDraftConfig, DominoDraftModel, stop_ids

VOCAB, HIDDEN, LAYERS = 61, 32, 4


def make_target(seed: int = 0, vocab: int = VOCAB, scale: float = 0.4) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=scale,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def make_config(**changes) -> DominoDraftConfig:
    dflash = {
        "mask_token_id": VOCAB - 1,
        "target_layer_ids": [0, 2],
        "projector_type": "domino",
        "pure_draft_prefix_len": 0,
        "emb_dim": 6,
        "gru_hidden_dim": 10,
        "shift_label": True,
    } | changes.pop("dflash", {})
    fields = {
        "architectures": ["DominoDraftModel"],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "block_size": 5,
        "num_target_layers": LAYERS,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    } | changes
    return DominoDraftConfig(dflash_config=dflash, **fields)


def make_drafter(seed: int = 1, **changes) -> DominoDraftModel:
    torch.manual_seed(seed)
    drafter = DominoDraftModel(make_config(**changes)).eval()
    for parameter in drafter.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return drafter


PROMPT = torch.tensor([[3, 17, 5, 40, 8]])


@pytest.mark.parametrize("bias", [False, True])
def test_save_and_load_round_trip(tmp_path, bias):
    drafter = make_drafter(dflash={"gru_bias": bias})
    drafter.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == ["DominoDraftModel"] and raw["model_type"] == "qwen3"
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"]
    assert DominoConfig.from_pretrained(tmp_path).S == 4
    stored = load_file(tmp_path / "model.safetensors")
    assert ("prefix_gru.bias_ih_l0" in stored) == bias
    assert {"fc.weight", "hidden_norm.weight", "norm.weight", "embed_proj.0.weight", "embed_proj.2.weight"} <= set(
        stored
    )
    again = DominoDraftModel.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_loads_prefixed_sharded_bfloat16_and_the_other_architecture_name(tmp_path):
    drafter = make_drafter()
    drafter.save_pretrained(tmp_path)
    state = {f"model.{k}": v.bfloat16() for k, v in load_file(tmp_path / "model.safetensors").items()}
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, inside in shards.items():
        save_file({n: state[n] for n in inside}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {n: f for f, inside in shards.items() for n in inside}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["architectures"] = ["DFlashDraftModel"]
    raw["dflash_config"]["projector_type"] = "causal_v5"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    again = DominoDraftModel.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.fc.weight, drafter.fc.weight.bfloat16())
    assert DominoDraftModel.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32


def test_incomplete_checkpoint_is_refused_in_words(tmp_path):
    make_drafter().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["fc.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"fc\.weight"):
        DominoDraftModel.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="trust_remote_code"):
        DominoDraftModel.from_pretrained(tmp_path, trust_remote_code=True)


def test_backbone_against_a_plain_loop():
    """Attention written with one query at a time over explicit keys: context without input norm, block with it."""
    drafter = make_drafter()
    torch.manual_seed(5)
    features, block = torch.randn(1, 7, 2 * HIDDEN), torch.randn(1, 5, HIDDEN)
    positions = torch.arange(7, 12)[None]
    with torch.no_grad():
        got = drafter(block, positions, drafter.context_key_values(features, torch.arange(7)[None]))[0]
        hidden, context = block[0], drafter.hidden_norm(drafter.fc(features))[0]
        frequencies = 1.0 / drafter.config.rope_parameters["rope_theta"] ** (torch.arange(0, 8, 2) / 8)

        def turned(x, position):
            angle = position * frequencies
            first, second = x[..., :4], x[..., 4:]
            return torch.cat(
                [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
            )

        for layer in drafter.layers:
            attention, normed = layer.self_attn, layer.input_layernorm(hidden)
            source = torch.cat([context, normed])
            keys = attention.k_norm(attention.k_proj(source).view(12, 2, 8))
            values = attention.v_proj(source).view(12, 2, 8)
            queries = attention.q_norm(attention.q_proj(normed).view(5, 4, 8))
            mixed = torch.zeros(5, 4, 8)
            for i in range(5):
                for h in range(4):
                    query = turned(queries[i, h], 7 + i)
                    scores = torch.stack([turned(keys[t, h // 2], t) @ query for t in range(12)]) / 8**0.5
                    mixed[i, h] = scores.softmax(0) @ values[:, h // 2]
            hidden = hidden + attention.o_proj(mixed.flatten(1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        wanted = drafter.norm(hidden)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shift_label", [True, False])
@pytest.mark.parametrize("prefix", [0, 2, 4])
@pytest.mark.parametrize(("rows", "topk"), [(None, 1), (None, 4), (1, 4), (2, 3), (30, 6)])
def test_greedy_equals_generate(shift_label, prefix, rows, topk):
    target = make_target()
    drafter = make_drafter(dflash={"shift_label": shift_label, "pure_draft_prefix_len": prefix})
    wanted = target.generate(PROMPT, max_new_tokens=33, do_sample=False)
    got = drafter.spec_generate(target, PROMPT, max_new_tokens=33, num_draft_tokens=rows, topk=topk)
    assert torch.equal(got.sequences, wanted)
    assert all(1 <= n <= 5 for n in got.acceptance)
    assert rows != 1 or set(got.acceptance) == {1}


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_sampled_text_is_the_targets_and_the_seeds_alone(temperature):
    """Whatever is drafted and verified, and by whichever drafter: the text of plain decoding with the same noise."""
    target, texts = make_target(), set()
    for seed in (1, 2):
        for drafter in (make_drafter(), make_drafter(dflash={"shift_label": True})):
            for rows, topk, head in ((1, 1, True), (5, 1, True), (5, 4, True), (20, 3, True), (20, 3, False)):
                got = drafter.spec_generate(
                    target, PROMPT, 25, temperature, seed=seed, num_draft_tokens=rows, topk=topk, head=head
                )
                texts.add((seed, tuple(got.sequences[0].tolist())))
    assert {seed for seed, _ in texts} == {1, 2} and len(texts) == 2


def test_a_branch_behind_the_first_is_committed_with_its_own_features():
    """A tree finds the target's text where its best path is wrong, and goes on as if that path had been the first."""
    target, drafter = make_target(), make_drafter()
    chain = drafter.spec_generate(target, PROMPT, 40, topk=1)
    tree = drafter.spec_generate(target, PROMPT, 40, topk=8, num_draft_tokens=33)
    assert torch.equal(tree.sequences, chain.sequences)
    assert tree.acceptance_length > chain.acceptance_length + 0.05


@pytest.mark.parametrize(
    "option", [{"topk": 0}, {"topk": 10**6}, {"num_steps": 0}, {"num_steps": 5}, {"num_draft_tokens": 0}]
)
def test_trees_that_cannot_be_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is {next(iter(option.values()))}, expected 1"):
        make_drafter().spec_generate(make_target(), PROMPT, **option)


def test_a_perfect_draft_is_accepted_whole():
    """Target and drafter that both say the same token for ever: every step commits the whole block."""
    target = make_target()
    with torch.no_grad():
        target.lm_head.weight.zero_()
        target.lm_head.weight[7] = 0.0
    # All logits tie at zero, and ties go to token 0 on both sides unless the head speaks; then it is rejected.
    drafter = make_drafter(dflash={"pure_draft_prefix_len": 4})
    got = drafter.spec_generate(target, PROMPT, max_new_tokens=21, topk=1)
    assert got.acceptance == [5, 5, 5, 5] and got.acceptance_length == 5.0


def test_stop_limit_callback_and_streamer():
    target, drafter = make_target(), make_drafter()
    plain = target.generate(PROMPT, max_new_tokens=20, do_sample=False)[0, 5:].tolist()
    stop = plain[6]
    seen: list[int] = []

    class Streamer:
        pieces: list[list[int]] = []
        ended = False

        def put(self, value):
            self.pieces.append(value.flatten().tolist())

        def end(self):
            self.ended = True

    streamer = Streamer()
    got = drafter.spec_generate(
        target, PROMPT, max_new_tokens=20, stop_token_ids=[stop], callback=seen.extend, streamer=streamer
    )
    assert got.sequences[0, 5:].tolist() == plain[: plain.index(stop) + 1] == seen
    assert streamer.ended and streamer.pieces[0] == PROMPT[0].tolist()
    assert [token for piece in streamer.pieces[1:] for token in piece] == seen
    for limit in (0, 1, 2, 7):
        assert drafter.spec_generate(target, PROMPT, max_new_tokens=limit).sequences.shape[1] == 5 + limit


def test_unusable_requests_are_refused():
    target, drafter = make_target(), make_drafter()
    with pytest.raises(ValueError, match="once per prompt"):
        drafter.spec_generate(target, PROMPT.repeat(2, 1))
    with pytest.raises(ValueError, match="temperature"):
        drafter.spec_generate(target, PROMPT, temperature=-1)
    with pytest.raises(ValueError, match="embedding has 23 rows"):
        drafter.spec_generate(make_target(vocab=23), PROMPT)


def test_sampled_law_on_a_tiny_vocabulary():
    """The first three tokens, over many seeds, follow the target's own distribution (chi-square at 1e-4)."""
    from scipy.stats import chisquare

    vocab = 5
    target = make_target(vocab=vocab, scale=0.25)
    drafter = make_drafter(vocab_size=vocab, block_size=3, dflash={"mask_token_id": 0})
    prompt, temperature, draws = torch.tensor([[1, 3]]), 0.8, 300
    exact = torch.zeros(vocab, vocab, vocab)
    with torch.inference_mode():
        grid = torch.cartesian_prod(*[torch.arange(vocab)] * 2)
        ids = torch.cat([prompt.repeat(len(grid), 1), grid], 1)
        p = torch.softmax(target(ids).logits.float() / temperature, -1)
        for row, (a, b) in enumerate(grid.tolist()):
            exact[a, b] = p[row, 1, a] * p[row, 2, b] * p[row, 3]
    counts = torch.zeros_like(exact)
    lengths = []
    for seed in range(draws):
        out = drafter.spec_generate(target, prompt, max_new_tokens=3, temperature=temperature, seed=seed)
        counts[tuple(out.sequences[0, 2:].tolist())] += 1
        lengths += out.acceptance
    rare = exact.flatten() * draws < 5
    observed = torch.cat([counts.flatten()[~rare], counts.flatten()[rare].sum()[None]]).double()
    expected = torch.cat([exact.flatten()[~rare], exact.flatten()[rare].sum()[None]]).double() * draws
    assert min(lengths) == 1 and max(lengths) == 3  # both rejection and full acceptance took part
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_top_k_is_honoured_when_sampling():
    target, drafter = make_target(), make_drafter()
    for seed in range(5):
        got = drafter.spec_generate(target, PROMPT, max_new_tokens=12, temperature=1.0, top_k=2, seed=seed).sequences
        with torch.inference_mode():
            best = target(got).logits[0].topk(2).indices
        assert all(int(got[0, i + 1]) in best[i].tolist() for i in range(4, got.shape[1] - 1))


def test_stop_ids_of_a_target_and_of_its_tokenizer():
    target, tokenizer = make_target(), SimpleNamespace(eos_token_id=7)
    assert stop_ids(target) == set()
    target.generation_config.eos_token_id, target.config.eos_token_id = [3, 5], 4
    assert stop_ids(target) == {3, 5}
    assert stop_ids(target, tokenizer) == {3, 4, 5, 7}
    target.generation_config.eos_token_id = 0
    assert stop_ids(target) == {0}
