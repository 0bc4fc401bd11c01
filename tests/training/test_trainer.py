"""The training loop: it learns, it resumes, and two processes equal one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from domino_sglang.core.config import DominoConfig
from domino_sglang.demo import packaged_drafter
from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.data.storage import DataError
from domino_sglang.training.evaluation.acceptance import replay
from domino_sglang.training.loop.dataset import Example, similar_lengths, visit_order
from domino_sglang.training.loop.drafter import new_drafter
from domino_sglang.training.loop.trainer import Trainer
from domino_sglang.training.recipe import RECIPES, Recipe, RecipeError
from tests.support.overfitting import write_greedy_texts
from tests.support.paths import ROOT

from .conftest import changed, write_chats

PROMPTS = [torch.randint(5, 60, (8,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(4)]


def test_visit_order_covers_every_epoch_and_can_start_anywhere():
    order = visit_order(5, 3, 0)
    first = [next(order) for _ in range(15)]
    assert all(sorted(first[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    later = visit_order(5, 3, 7)
    assert [next(later) for _ in range(8)] == first[7:]


def test_batches_of_similar_lengths_cover_every_epoch_and_can_start_anywhere():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 100, (48,), generator=generator).tolist()
    examples = [Example(i, "chat", 0.0, torch.zeros(n, dtype=torch.long), 2, None) for i, n in enumerate(lengths)]
    batches = similar_lengths(examples, 3, 0, 3)
    first = [next(batches) for _ in range(32)]
    assert all(sorted(e.number for b in first[i : i + 16] for e in b) == list(range(48)) for i in (0, 16))
    assert [[e.number for e in b] for b in first[11:]] == [
        [e.number for e in next(later)] for later in [similar_lengths(examples, 3, 11, 3)] for _ in range(21)
    ]
    spread = [max(len(e.ids) for e in b) - min(len(e.ids) for e in b) for b in first]
    assert sum(spread) / len(spread) < 20  # three random lengths differ by 48 on average


@pytest.mark.parametrize("prefix", [0, 3], ids=["domino", "dflash"])
def test_resume_equals_uninterrupted(chats, target, tmp_path, prefix):
    chats = changed(chats, frequent_vocab=20, sampled_vocab=15, first_proposal_ratio=0.4)
    chats = dataclasses.replace(chats, drafter=dataclasses.replace(chats.drafter, pure_draft_prefix_len=prefix))
    whole = Trainer(chats, target, tmp_path / "whole", progress=False).train()
    first = Trainer(chats, target, tmp_path / "cut", progress=False).train(until=4)
    second = Trainer(chats, target, tmp_path / "cut", progress=False)
    assert second.step == 4
    rest = second.train()
    assert first.losses + rest.losses == pytest.approx(whole.losses, rel=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if "loss" in r] == list(range(1, 9))
    assert any((tmp_path / "whole" / "tensorboard").iterdir())


def test_overfit_reaches_full_acceptance(recipe, target, tmp_path):
    """A drafter that may memorise a few of the target's own greedy texts drafts them almost without a miss."""
    write_greedy_texts(recipe, target, PROMPTS, 25)
    recipe = dataclasses.replace(
        changed(recipe, steps=220, batch_sequences=4, anchors_per_sequence=24, learning_rate=5e-3, save_every=1000),
        data=dataclasses.replace(recipe.data, heldout=0),
        drafter=dataclasses.replace(recipe.drafter, num_hidden_layers=2, emb_dim=24, gru_hidden_dim=32),
    )
    trainer = Trainer(recipe, target, tmp_path / "overfit", progress=False)
    trainer.heldout = trainer.training
    done = trainer.train()
    proposals = trainer.drafter.domino.S
    rates = done.report.by_position
    assert (done.report.length - 1) / proposals > 0.95 or min(rates) > 0.9, done.report
    config = DominoConfig.from_pretrained(done.checkpoint)
    assert proposals == config.S
    # The exported checkpoint under spec_generate: the same acceptance, and the target's own text.
    drafter = DominoDraftModel.from_pretrained(tmp_path / "overfit" / "best")
    example = trainer.training[0]
    prompt = example.ids[None, : example.prompt_length]
    got = drafter.spec_generate(target, prompt, max_new_tokens=25, stop_token_ids=[])
    assert got.sequences[0].tolist() == example.ids.tolist()
    assert got.acceptance_length > 1 + 0.85 * proposals
    # The replay without the target counts what decoding really accepted, step by step (the last one is cut).
    for other in (drafter, new_drafter(recipe.drafter, target, 5).eval()):
        got = other.spec_generate(target, prompt, max_new_tokens=25, stop_token_ids=[])
        counted = replay(other, trainer.ends, [example], trainer.features)
        assert counted.steps == len(got.acceptance)
        assert counted.length * counted.steps == pytest.approx(24)
        assert counted.by_position[0] == pytest.approx(sum(n > 1 for n in got.acceptance) / counted.steps)


def test_features_on_the_fly_equal_cached_ones(chats, target, tmp_path):
    cached = Trainer(chats, target, tmp_path / "a", progress=False).train(until=3)
    chats = dataclasses.replace(chats, data=dataclasses.replace(chats.data, cache_features=False))
    fresh = Trainer(chats, target, tmp_path / "b", progress=False).train(until=3)
    assert fresh.losses == pytest.approx(cached.losses, rel=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "ttt"},
        {"lambda_start": 0.0},
        {"attention": "sdpa"},
        {"first_proposal_ratio": 0.3},
        {"distill": 0.5},
        {"distill": 0.5, "dtype": "bfloat16"},
    ],
)
def test_options_train(recipe, target, tmp_path, change):
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, heldout=0))
    longer = changed(recipe, steps=40, learning_rate=1e-2, anchors_per_sequence=16, **change)
    write_greedy_texts(longer, target, PROMPTS, 25)
    losses = Trainer(longer, target, tmp_path / "x", progress=False).train().losses
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_trained_drafter_is_gone_on_from(chats, target, tmp_path):
    first = Trainer(chats, target, tmp_path / "first", progress=False)
    first.train()
    checkpoint = tmp_path / "first" / "checkpoint"
    further = dataclasses.replace(chats, drafter=dataclasses.replace(chats.drafter, start_from=str(checkpoint)))
    second = Trainer(further, target, tmp_path / "second", progress=False)
    assert second.step == 0
    assert second.evaluate() == first.evaluate()
    wider = dataclasses.replace(further, drafter=dataclasses.replace(further.drafter, emb_dim=5))
    with pytest.raises(RecipeError, match="embed_proj"):
        Trainer(wider, target, tmp_path / "third", progress=False)

    wider = dataclasses.replace(wider, drafter=dataclasses.replace(wider.drafter, fresh_head=True))
    fourth = Trainer(wider, target, tmp_path / "fourth", progress=False)
    assert fourth.evaluate(head=False) == first.evaluate(head=False)
    assert float(fourth.drafter.embed_proj[2].weight.abs().sum()) == 0.0


def test_plain_dflash_is_a_drafter_that_is_all_prefix(chats, target, tmp_path):
    chats = dataclasses.replace(chats, drafter=dataclasses.replace(chats.drafter, pure_draft_prefix_len=3))
    trainer = Trainer(chats, target, tmp_path / "x", progress=False)
    trainer.train()
    assert float(trainer.drafter.embed_proj[2].weight.abs().sum()) == 0.0
    assert trainer.evaluate().length == trainer.evaluate(head=False).length >= 1.0


def test_missing_features_are_explained(chats, target, tmp_path):
    (chats.data_dir / "features.f16").unlink()
    with pytest.raises(DataError, match="domino-sglang data features"):
        Trainer(chats, target, tmp_path / "x", progress=False)


def test_features_of_other_layers_are_refused(chats, target, tmp_path):
    with pytest.raises(DataError, match=r"holds the layers \[0, 2\], expected \[0, 2, 3\]"):
        Trainer(changed(chats, distill=0.5), target, tmp_path / "x", progress=False)


def test_parallel_without_torchrun_is_explained(chats, target, tmp_path):
    with pytest.raises(ValueError, match="torchrun"):
        Trainer(changed(chats, parallel="fsdp"), target, tmp_path / "x", progress=False)


TWO_PROCESSES = """
    import json, pickle, sys, torch
    torch.set_num_threads(1)
    from pathlib import Path
    from domino_sglang.training.loop.trainer import Trainer
    from transformers import AutoModelForCausalLM
    recipe = pickle.loads(Path(sys.argv[1], "recipe.pkl").read_bytes())
    target = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    trainer = Trainer(recipe, target, Path(sys.argv[2]), progress=False)
    assert (trainer.world.size, trainer.world.kind) == (2, "fsdp")
    assert all(type(p).__name__ == "DTensor" for p in trainer.drafter.parameters())
    losses = trainer.train(until=4).losses
    losses += Trainer(recipe, target, Path(sys.argv[2]), progress=False).train().losses
    if trainer.world.leads:
        Path(sys.argv[3]).write_text(json.dumps(losses))
    trainer.world.leave()
"""


def test_two_fsdp_processes_equal_one(chats, target, tmp_path):
    """gloo, two processes of one sequence each against one process of two; resumed in the middle."""
    import pickle

    chats = changed(chats, steps=6, save_every=2, eval_every=6)
    alone = Trainer(changed(chats, batch_sequences=2), target, tmp_path / "alone", progress=False)
    wanted = alone.train().losses
    script, setup = tmp_path / "two.py", tmp_path / "setup"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    target.save_pretrained(setup)
    (setup / "recipe.pkl").write_bytes(pickle.dumps(changed(chats, batch_sequences=1, parallel="fsdp")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = ROOT
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run(
        [*command, str(script), str(setup), str(tmp_path / "two"), str(tmp_path / "losses.json")],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(wanted, rel=1e-4)
    together = DominoDraftModel.from_pretrained(tmp_path / "two" / "checkpoint")
    single = DominoDraftModel.from_pretrained(tmp_path / "alone" / "checkpoint")
    for name, tensor in single.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_packaged_recipes_parse_and_mistakes_are_named(tmp_path):
    shape = Recipe.load("smollm2-135m").drafter
    assert shape == Recipe.load("smollm2-135m-gpu").drafter
    # Both can go on from the packaged weights.
    packaged = json.loads((packaged_drafter() / "config.json").read_text())
    assert {name: packaged[name] for name in ("num_hidden_layers", "intermediate_size", "block_size")} == {
        "num_hidden_layers": shape.num_hidden_layers,
        "intermediate_size": shape.intermediate_size,
        "block_size": shape.block_size,
    }
    assert all(Recipe.load(file).target for file in RECIPES.glob("*.yaml"))
    assert Recipe.load("smollm2-135m", {"train.learning_rate": "6e-4"}).train.learning_rate == 6e-4
    with pytest.raises(RecipeError, match="no recipe 'nope'"):
        Recipe.load("nope")
    for change, complaint in (
        (
            {"train.speed": 3},
            r"-135m.yaml: unknown field 'train.speed', expected one of \['anchors_per_sequence'",
        ),
        ({"speed": 3}, "unknown field 'speed', expected one of .*'work_dir'.*; drop or rename it"),
        ({"train.method": "magic"}, "train.method is 'magic', expected 'tf' or 'ttt'; change it there or with --set"),
        ({"train.steps": "many"}, "train.steps is 'many', expected a valid integer"),
        ({"train.steps": True}, "train.steps is True, expected a valid integer"),
        ({"train.steps": 0}, "train.steps is 0, expected greater than or equal to 1"),
        ({"train.learning_rate": "fast"}, "train.learning_rate is 'fast', expected a valid number"),
        ({"drafter.shift_label": "yes"}, "drafter.shift_label is 'yes', expected a valid boolean"),
        ({"data.greedy_share": 2}, "data.greedy_share is 2, expected less than or equal to 1"),
        ({"train": 5}, "train is 5, expected fields"),
        ({"train": 5, "train.steps": 3}, "--set train.steps: train is 5 in the recipe, expected fields"),
        ({"data.mix": {"chat": "all"}}, "data.mix.chat is 'all', expected a valid number"),
        ({"train.gamma": 0, "train.steps": 0}, r"train.steps .*\(1 more\)"),
    ):
        with pytest.raises(RecipeError, match=complaint):
            Recipe.load("smollm2-135m", change)
    (tmp_path / "r.yaml").write_text("target: [")
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("- target\n")
    with pytest.raises(RecipeError, match="holds list, expected fields"):
        Recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("target: demo\n")
    with pytest.raises(RecipeError, match="work_dir"):
        Recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("section", "change", "complaint"),
    [
        ("train", {"gamma": 9.0}, "train.gamma 4.0, and the recipe says 9.0"),
        ("train", {"seed": 5}, "train.seed 0, and the recipe says 5"),
        ("train", {"method": "ttt"}, "train.method 'tf', and the recipe says 'ttt'"),
        ("drafter", {"start_from": "packaged"}, "drafter.start_from None, and the recipe says 'packaged'"),
        ("drafter", {"emb_dim": 5}, "drafter.emb_dim 8, and the recipe says 5"),
        ("data", {"heldout": 3}, "data.heldout 2, and the recipe says 3"),
    ],
)
def test_a_run_goes_on_with_its_own_recipe_alone(chats, target, tmp_path, section, change, complaint):
    Trainer(chats, target, tmp_path / "x", progress=False).train(until=1)
    longer = changed(chats, steps=9, eval_every=3, save_every=2, log_every=3)
    assert Trainer(longer, target, tmp_path / "x", progress=False).step == 1
    other = dataclasses.replace(longer, **{section: dataclasses.replace(getattr(longer, section), **change)})
    with pytest.raises(
        RecipeError, match=rf"{tmp_path / 'x'} was made with {complaint}; choose another work_dir, or set"
    ):
        Trainer(other, target, tmp_path / "x", progress=False)
    # Nor beside the best drafter of a run whose state is gone.
    (tmp_path / "x" / "state.pt").unlink()
    (tmp_path / "x" / "best").mkdir()
    with pytest.raises(RecipeError, match=complaint):
        Trainer(other, target, tmp_path / "x", progress=False)


def test_layers_that_cannot_be_captured_are_refused(chats, target, tmp_path):
    wrong = dataclasses.replace(chats, drafter=dataclasses.replace(chats.drafter, target_layer_ids=(0, 3)))
    with pytest.raises(RecipeError, match="the last cannot be captured"):
        Trainer(
            dataclasses.replace(wrong, data=dataclasses.replace(wrong.data, cache_features=False)),
            target,
            tmp_path / "x",
            progress=False,
        )


def test_more_data_can_be_added_between_runs(chats, target, tmp_path):
    Trainer(chats, target, tmp_path / "x", progress=False).train(until=4)
    write_chats(chats, target, count=12)
    more = Trainer(chats, target, tmp_path / "x", progress=False)
    assert more.step == 4 and len(more.training) == 10
    assert more.train().step == 8


def test_feature_scale_folds_into_fc(chats, target, tmp_path):
    """Training on scaled features and exporting the folded drafter is one function; outlier dimensions are tamed."""
    from domino_sglang.training.loop.scaling import fold_scale, measure_scale

    trainer = Trainer(chats, target, tmp_path / "x", progress=False)
    raw = trainer.features(trainer.training[:1])
    scale = measure_scale(trainer.training, trainer.features)
    rms = torch.cat([trainer.features([e])[0, 1:] * scale for e in trainer.training]).square().mean(0).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=1e-3, rtol=1e-3)
    scaled = trainer.drafter.project_features(raw * scale)
    torch.testing.assert_close(fold_scale(trainer.drafter, scale).project_features(raw), scaled, atol=1e-4, rtol=1e-4)
