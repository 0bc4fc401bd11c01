"""The commands, end to end, on the tiny target: synthesise, cache, train, export, ablate."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import lzma
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from huggingface_hub import ModelCard

from domino_sglang.errors import UserError
from domino_sglang.hf import DominoDraftModel
from domino_sglang.measure.workloads import Prompt
from domino_sglang.training import ablate_command, train_command
from domino_sglang.training.data import command as data_command
from domino_sglang.training.data import synthesize
from domino_sglang.training.data.corpus import unpack_corpus
from domino_sglang.training.data.remote import write_remote_responses
from domino_sglang.training.data.storage import DataError
from domino_sglang.training.evaluation import ablation, workloads
from domino_sglang.training.export import checkpoint_folder, model_card
from domino_sglang.training.loop.trainer import Trainer
from domino_sglang.training.recipe import RecipeError

from .conftest import changed


def run(command, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*words, "--no-progress"]))


@contextlib.contextmanager
def serving(answer: dict):
    """A server that gives every request this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.fixture
def recipe_file(tmp_path, target, tokenizer, monkeypatch):
    monkeypatch.setattr(synthesize, "OPENINGS_AT_ONCE", 8)
    hello = Prompt.of("chat", "Hello there.")
    monkeypatch.setattr(workloads, "evaluation_prompts", lambda count: {"chat": [hello] * count})
    target.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "target": str(tmp_path / "target"),
                "work_dir": str(tmp_path / "work"),
                "data": {
                    "num_prompts": 6,
                    "mix": {"chat": 1.0},
                    "greedy_share": 1.0,
                    "max_prompt_tokens": 200,
                    "max_new_tokens": 20,
                    "slots": 4,
                    "heldout": 2,
                },
                "drafter": {
                    "target_layer_ids": [0, 2],
                    "mask_token_id": 1,
                    "num_hidden_layers": 1,
                    "block_size": 4,
                    "gru_hidden_dim": 8,
                    "emb_dim": 4,
                },
                "train": {
                    "steps": 6,
                    "batch_sequences": 2,
                    "anchors_per_sequence": 4,
                    "eval_every": 3,
                    "save_every": 3,
                },
            }
        )
    )
    return str(file)


def test_one_command_makes_a_drafter_and_ablations_compare(recipe_file, tmp_path):
    export = tmp_path / "export"
    assert run(train_command, recipe_file, "--export", str(export), "--measure", "1") == 0
    drafter = DominoDraftModel.from_pretrained(export)
    assert drafter.domino.S == 3 and str(drafter.dtype) == "torch.bfloat16"
    card = (export / "README.md").read_text()
    assert "Decoding evaluation prompts" in card and "| chat | 1.0 |" in card
    assert "Acceptance length" in card and "domino-sglang train" in card and "4 chats" in card
    assert "lambda 1.0 falling to 0 over 50% of the steps" in card
    assert ModelCard(card).data.tags == ["speculative-decoding", "domino", "sglang"]
    lines = (tmp_path / "work" / "data" / "responses.jsonl").read_text().splitlines()
    assert len(lines) == 6
    # Neither weights nor card of a run are mixed with another recipe's.
    for words in (["--export", str(export)], ["--export", str(export), "--export-only"]):
        with pytest.raises(RecipeError, match=r"made with train\.gamma 4\.0, and the recipe says 2\.0"):
            run(train_command, recipe_file, *words, "--set", "train.gamma=2")
    assert (export / "README.md").read_text() == card
    for change, complaint in (
        ("data.num_prompts=5", "data.num_prompts 6, and the recipe says 5"),
        ("data.corpus=smollm2-135m", "data.corpus None, and the recipe says 'smollm2-135m'"),
        ("data.greedy_share=0.5", "data.greedy_share 1.0, and the recipe says 0.5"),
    ):
        for command in ((train_command,), (data_command, "synthesize"), (data_command, "features"), (ablate_command,)):
            with pytest.raises(RecipeError, match=rf"work/data was made with {complaint}"):
                run(*command, recipe_file, "--set", change)

    assert run(data_command, "features", recipe_file) == 0
    assert run(data_command, "synthesize", recipe_file) == 0  # complete already: nothing changes but the offsets
    again = (tmp_path / "work" / "data" / "responses.jsonl").read_text().splitlines()
    assert [json.loads(a)["response_ids"] for a in again] == [json.loads(b)["response_ids"] for b in lines]

    out = tmp_path / "ablation"
    assert run(ablate_command, recipe_file, "--seeds", "0", "--out", str(out), "--set", "train.steps=2") == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 7 and all(1.0 <= row["length"] <= 4.0 for row in rows)
    assert {"hardware", "commit", "command", "torch", "date"} <= set(rows[0])
    assert all(row["training_steps"] == 2 for row in rows)
    said = (out / "README.md").read_text()
    assert "2 steps on 4 chats" in said and "| DFlash alone |" in said
    # Restartable: a second run finds every row.
    assert run(ablate_command, recipe_file, "--seeds", "0", "--out", str(out), "--set", "train.steps=2") == 0
    assert len((out / "rows.jsonl").read_text().splitlines()) == 7
    with pytest.raises(
        RecipeError, match=r"ablation was made with train\.steps 2, and the recipe says 3; choose another --out"
    ):
        run(ablate_command, recipe_file, "--seeds", "0", "--out", str(out), "--set", "train.steps=3")
    again = ("--seeds", "0", "--set", "train.steps=2", "--set", "train.gamma=2", "--out", str(tmp_path / "gamma"))
    with pytest.raises(RecipeError, match=r"curriculum-0 was made with train\.gamma 4\.0, and the recipe says 2\.0"):
        run(ablate_command, recipe_file, *again)
    few = ("--seeds", "0", "--set", "train.steps=2", "--runs", "dflash", "tf", "--out", str(tmp_path / "few"))
    assert run(ablate_command, recipe_file, *few) == 0
    found = [json.loads(line)["arm"] for line in (tmp_path / "few" / "rows.jsonl").read_text().splitlines()]
    assert found == ["DFlash alone", "TF, lambda = 0", "TF, lambda = 0, head off"]
    with pytest.raises(RecipeError, match=r"--runs 'eagle': expected some of \['curriculum', 'dflash'"):
        run(ablate_command, recipe_file, "--runs", "eagle")

    sizes = tmp_path / "sizes"
    changes = ("--set", "train.steps=2", "--set", f"drafter.start_from={export}", "--out", str(sizes))
    assert run(ablate_command, recipe_file, "--study", "head-size", "--seeds", "0", *changes) == 0
    rows = {row["arm"]: row for row in map(json.loads, (sizes / "rows.jsonl").read_text().splitlines())}
    whole, half = rows["GRU 8, rank 4"], rows["GRU 8, rank 2"]
    assert len(rows) == 5
    assert whole["parameters"] - half["parameters"] == 2 * (drafter.domino.V + drafter.domino.H + drafter.domino.G)


def test_a_corpus_trains_without_writing_a_word(recipe_file, tmp_path, monkeypatch):
    assert run(data_command, "synthesize", recipe_file) == 0
    corpus = tmp_path / "kept.jsonl.xz"
    assert run(data_command, "pack", recipe_file, "--out", str(corpus)) == 0
    written = (tmp_path / "work" / "data" / "responses.jsonl").read_text().splitlines()

    monkeypatch.setattr(synthesize, "write_responses", None)
    changes = ("--set", f"work_dir={tmp_path / 'again'}", "--set", f"data.corpus={corpus}")
    assert run(train_command, recipe_file, *changes, "--set", "train.distill=0.5") == 0
    unpacked = (tmp_path / "again" / "data" / "responses.jsonl").read_text().splitlines()
    kept = ("id", "kind", "temperature", "prompt_ids", "response_ids")
    assert [[json.loads(a)[k] for k in kept] for a in unpacked] == [[json.loads(b)[k] for k in kept] for b in written]
    assert all(json.loads(line)["features"] is not None for line in unpacked)

    cut = [json.loads(line) for line in written]
    first = next(row for row in cut if row["temperature"] == 0 and len(row["response_ids"]) > 3)
    first.update(finish="loop", response_ids=first["response_ids"][:3])
    with lzma.open(tmp_path / "cut.jsonl.xz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in cut)
    changes = ("--set", f"work_dir={tmp_path / 'features'}", "--set", f"data.corpus={tmp_path / 'cut.jsonl.xz'}")
    assert run(data_command, "features", recipe_file, "--whole-loops", *changes) == 0
    assert (tmp_path / "features" / "data" / "features.f16").is_file()
    lines = (tmp_path / "features" / "data" / "responses.jsonl").read_text().splitlines()
    longer = next(row for row in map(json.loads, lines) if row["id"] == first["id"])
    original = next(row for row in map(json.loads, written) if row["id"] == first["id"])
    assert longer["response_ids"][:4] == original["response_ids"][:4]

    assert sum(1 for _ in unpack_corpus(str(corpus), tmp_path / "few", 3).open()) == 3
    changes = (
        "--set",
        f"work_dir={tmp_path / 'joined'}",
        "--set",
        f"data.corpus={corpus}",
        "--set",
        "data.num_prompts=3",
    )
    assert run(data_command, "join", recipe_file, str(tmp_path / "work"), *changes) == 0
    joined = [json.loads(line) for line in (tmp_path / "joined" / "data" / "responses.jsonl").open()]
    # Each chat once, those that were there before the others, under numbers of their own.
    assert [row["prompt_ids"] for row in joined] == [json.loads(line)["prompt_ids"] for line in written]
    highest = max(row["id"] for row in joined[:3])
    assert [row["id"] for row in joined[3:]] == [*range(highest + 1, highest + 1 + len(written) - 3)]
    with pytest.raises(DataError, match=r"holds no responses\.jsonl"):
        run(data_command, "join", recipe_file, str(tmp_path), *changes)
    corpus.write_bytes(corpus.read_bytes()[:-20])
    for name, complaint in ((str(corpus), "is damaged"), ("nowhere", "no corpus 'nowhere'")):
        with pytest.raises(DataError, match=complaint):
            changes = ("--set", f"work_dir={tmp_path / 'third'}", "--set", f"data.corpus={name}")
            run(train_command, recipe_file, *changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lambda_start": 0.0}, "no base-anchored curriculum (lambda 0 throughout)"),
        ({"lambda_decay_ratio": 0.0}, "no base-anchored curriculum (lambda 0 throughout)"),
        ({"lambda_start": 0.5}, "lambda 0.5 falling to 0 over 50% of the steps"),
    ],
)
def test_the_card_speaks_of_the_curriculum_there_was(chats, target, change, said):
    recipe = changed(chats, **change, steps=1, eval_every=1)
    Trainer(recipe, target, progress=False).train()
    card = str(model_card(recipe, checkpoint_folder(recipe)))
    assert said in card and "lambda 0.0" not in card


@pytest.mark.parametrize(("cut_loops", "finish"), [(True, "loop"), (False, "length")])
def test_a_server_writes_loops_as_the_recipe_wants_them(recipe, tokenizer, cut_loops, finish):
    data = dataclasses.replace(recipe.data, cut_loops=cut_loops, max_new_tokens=200)
    recipe.data_dir.mkdir(parents=True)
    row = {"id": 0, "opening": 0, "kind": "chat", "messages": [{"role": "user", "content": "Go on and on"}]}
    (recipe.data_dir / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    with serving({"choices": [{"message": {"content": "ab" * 100}, "finish_reason": "length"}]}) as url:
        file = write_remote_responses(url, "any", tokenizer, data, recipe.data_dir, progress=False)
    written = json.loads(file.read_text())
    assert written["finish"] == finish and (len(written["response_ids"]) == 200) == (not cut_loops)


def test_a_corpus_is_not_asked_of_a_server(recipe_file):
    with pytest.raises(RecipeError, match=r"data\.corpus is 'smollm2-135m'.*--endpoint"):
        words = ("--endpoint", "http://127.0.0.1:9", "--set", "data.corpus=smollm2-135m")
        run(data_command, "synthesize", recipe_file, *words)


def test_export_before_training_is_explained(recipe_file, tmp_path):
    with pytest.raises(UserError, match="first evaluation"):
        run(train_command, recipe_file, "--export-only")


def test_a_malformed_change_is_explained(recipe_file):
    with pytest.raises(RecipeError, match="FIELD=VALUE"):
        run(train_command, recipe_file, "--set", "train.steps")
    with pytest.raises(RecipeError, match="not valid YAML"):
        run(train_command, recipe_file, "--set", "train.betas=[1")
    with pytest.raises(RecipeError, match="cannot load the target"):
        run(train_command, recipe_file, "--set", "target=/nowhere")


def test_the_ablation_report_is_means_and_spreads_over_seeds():
    about = dict.fromkeys(("date", "hardware", "torch", "transformers", "commit", "command"), "x")
    lengths = {"TF + curriculum (Domino)": (1.5, 1.7), "DFlash alone": (1.25, 1.7)}
    rows = [
        {"arm": arm, "seed": seed, "length": length, "by_kind": {"chat": length, "maths": 2.0}, **about}
        | {"training_steps": 7, "sequences": 9, "parameters": 1_500_000}
        for arm, values in lengths.items()
        for seed, length in enumerate(values)
    ]
    study = ablation.Study([], "DFlash alone", "The paper found more.")
    said = ablation.report(rows, study)
    # Gains +20% and 0%: mean 10, standard deviation sqrt(200).
    assert "| TF + curriculum (Domino) | 1.600 ± 0.141 | +10.0% ± 14.1 | 1.60 | 2.00 | 1.50M | 2 |" in said
    assert "| DFlash alone | 1.475 ± 0.318 | +0.0% ± 0.0 | 1.48 | 2.00 | 1.50M | 2 |" in said
    assert "7 steps on 9 chats" in said and said.endswith("\n\nThe paper found more.\n")
    assert "| 1.500 | - |" in ablation.report(rows[:1], study)


def test_arms_differ_in_one_thing_each(recipe):
    study = ablation.training_study(recipe)
    arms = {arm.name: arm for arm in study.arms}
    assert study.baseline in arms
    assert arms["DFlash alone"].drafter == {"pure_draft_prefix_len": recipe.drafter.block_size - 1}
    assert arms["the same, head off"].trained_as == arms["TF + curriculum (Domino)"].trained_as
    assert arms["TTT, lambda = 0"].train == {"lambda_start": 0.0, "method": "ttt"}
    assert [arm.trained_as for arm in study.only(["tf", "dflash"]).arms] == ["dflash", "tf", "tf"]


def test_heads_of_several_sizes_stand_behind_one_backbone(recipe):
    given = dataclasses.replace(recipe.drafter, gru_hidden_dim=8, emb_dim=4, start_from="packaged")
    study = ablation.head_size_study(dataclasses.replace(recipe, drafter=given))
    assert [arm.name for arm in study.arms][:2] == ["GRU 8, rank 4", "GRU 4, rank 4"] and len(study.arms) == 5
    assert study.baseline == "GRU 8, rank 4"
    assert all(arm.drafter["fresh_head"] and not arm.train for arm in study.arms)
    assert not any(arm.drafter["fresh_head"] for arm in ablation.head_size_study(recipe).arms)
