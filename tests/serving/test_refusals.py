"""What cannot be served is refused before any weight is loaded, in one line: value, expectation, fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.drafters import drafter_config, write_drafter
from tests.support.targets import HIDDEN, LAYERS, VOCAB, write_target


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_target(tmp_path_factory.mktemp("tiny") / "target")


@pytest.fixture(scope="module")
def drafter(tiny, tmp_path_factory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("good") / "drafter", tiny)


def flags(target: Path, drafter: Path | str | None, *more: str) -> list[str]:
    given = ["--model-path", str(target), "--dtype", "float32", "--speculative-algorithm", "DOMINO", *more]
    return given if drafter is None else [*given, "--speculative-draft-model-path", str(drafter)]


def refusal(fork_server, argv: list[str]) -> str:
    answer = fork_server.ask("resolve", argv=argv)
    assert answer.get("error") == "Refusal", answer
    assert "ValueError" in answer["bases"]
    assert "\n" not in answer["message"]
    return answer["message"]


def test_a_good_drafter_settles_the_arguments(fork_server, tiny, drafter):
    settled = fork_server.ask("resolve", argv=flags(tiny, drafter))["value"]
    assert settled["speculative_num_draft_tokens"] == 8
    assert settled["speculative_num_steps"] == settled["speculative_eagle_topk"] == 1
    assert settled["max_running_requests"] > 0
    assert settled["disable_overlap_schedule"] is False


@pytest.mark.parametrize(
    "flag", ["--enable-hierarchical-cache", "--disaggregation-decode-retraction-backup host_pool"], ids=lambda f: f[:20]
)
def test_a_second_pool_of_host_memory_without_a_gpu(fork_server, tiny, drafter, flag):
    message = refusal(fork_server, [*flags(tiny, drafter), *flag.split()])
    assert flag.split()[0] in message and "host memory already" in message


# SGLang makes float16 of a float32 checkpoint, and the drafter's configuration says bfloat16.
@pytest.mark.parametrize(
    ("asked", "loaded"), [("auto", "float16"), ("float32", "float32"), ("half", "float16"), ("bfloat16", "bfloat16")]
)
def test_the_drafter_has_the_targets_dtype(fork_server, tiny, tmp_path, asked, loaded):
    drafter = write_drafter(tmp_path / "drafter", tiny, dtype=torch.bfloat16)
    argv = [*flags(tiny, drafter), "--dtype", asked]
    assert fork_server.ask("dtypes", argv=argv)["value"] == [f"torch.{loaded}"] * 2


# SGLang would give the drafter the target's, and this one has no int8 weights.
@pytest.mark.parametrize(("asked", "drafted"), [((), None), (("fp8",), "fp8"), (("unquant",), None)])
def test_the_drafter_is_quantised_if_asked(fork_server, tiny, drafter, asked, drafted):
    given = ["--quantization", "w8a8_int8", *(f"--speculative-draft-model-quantization={name}" for name in asked)]
    settled = fork_server.ask("resolve", argv=flags(tiny, drafter, *given))["value"]
    assert settled["speculative_draft_model_quantization"] == drafted


@pytest.mark.parametrize("block", [2, 5, 8])
def test_fewer_draft_tokens_are_a_shorter_block(fork_server, tiny, drafter, block):
    argv = flags(tiny, drafter, "--speculative-num-draft-tokens", str(block))
    assert fork_server.ask("resolve", argv=argv)["value"]["speculative_num_draft_tokens"] == block


@pytest.mark.parametrize("flag", ["--speculative-use-block-verification", "--speculative-draft-window-size=128"])
def test_flags_of_dflash_are_kept(fork_server, tiny, drafter, flag):
    settled = fork_server.ask("resolve", argv=flags(tiny, drafter, flag))["value"]
    name, _, value = flag.removeprefix("--").replace("-", "_").partition("=")
    assert settled[name] == (int(value) if value else True)


TOPOLOGIES = {
    "pipeline parallel": (["--pp-size", "2"], ["--pp-size is 2", "needs 1", "--tp-size"]),
    "dp attention": (["--tp-size", "2", "--attn-dp-size", "2"], ["--attn-dp-size is 2", "needs 1", "--tp-size"]),
    "dp attention, old flag": (
        ["--tp-size", "2", "--dp-size", "2", "--enable-dp-attention"],
        ["--enable-dp-attention", "needs 1", "--tp-size"],
    ),
    "context parallel": (["--tp-size", "2", "--attn-cp-size", "2"], ["--attn-cp-size is 2", "needs 1"]),
    "decode context parallel": (["--dcp-size", "2"], ["--dcp-size is 2", "needs 1"]),
    "steps": (["--speculative-num-steps", "3"], ["--speculative-num-steps is 3", "drop it"]),
    "tree": (["--speculative-eagle-topk", "4"], ["--speculative-eagle-topk is 4", "drop it"]),
    "too many draft tokens": (
        ["--speculative-num-draft-tokens", "9"],
        ["--speculative-num-draft-tokens is 9", "2 to 8", "drop"],
    ),
    "block of 1 asked": (["--speculative-num-draft-tokens", "1"], ["is 1", "2 to 8"]),
    "two block sizes": (
        ["--speculative-num-draft-tokens", "4", "--speculative-dflash-block-size", "5"],
        ["differ", "pass one"],
    ),
    "unknown draft attention": (
        ["--speculative-draft-attention-backend", "trtllm_mha"],
        ["--speculative-draft-attention-backend is 'trtllm_mha'"],
    ),
    "a grammar that takes no token back": (
        ["--grammar-backend", "outlines"],
        ["--grammar-backend is 'outlines'", "'xgrammar'", "drop the flag"],
    ),
    "window shorter than the block": (
        ["--speculative-draft-window-size", "4"],
        ["--speculative-draft-window-size is 4", "8", "raise it or drop it"],
    ),
}


TABLES = {
    "none": (None, [], ["--speculative-adaptive-config", "pass", '"candidate_steps": [7]']),
    "no file": ("", [], ["--speculative-adaptive-config is", "FileNotFoundError", "pass"]),
    "no JSON": ("{", [], ["--speculative-adaptive-config is", "no such table", "pass"]),
    "no candidates": ('{"1": {}}', [], ["candidate_steps", "no such table"]),
    "too many proposals": ('{"1": {"candidate_steps": [8]}}', [], ["8 proposals", "at most 7", "lower"]),
    "two batches at once": ('{"1": {"candidate_steps": [7]}}', ["--enable-two-batch-overlap"], ["drop either"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_adaptive_tables(fork_server, tiny, drafter, tmp_path, name):
    table, more, words = TABLES[name]
    given = ["--speculative-adaptive", *more]
    if table is not None:
        file = tmp_path / "table.json"
        given += ["--speculative-adaptive-config", str(file)]
        if table:
            file.write_text(table)
    message = refusal(fork_server, flags(tiny, drafter, *given))
    assert all(word in message for word in words), message


def test_an_adaptive_table_is_kept(fork_server, tiny, drafter, tmp_path):
    (tmp_path / "table.json").write_text('{"1": {"candidate_steps": [3, 7]}, "8": {"candidate_steps": [0, 1]}}')
    given = ["--speculative-adaptive", "--speculative-adaptive-config", str(tmp_path / "table.json")]
    settled = fork_server.ask("resolve", argv=flags(tiny, drafter, *given))["value"]
    assert settled["speculative_adaptive"] is True and settled["speculative_num_steps"] == 1
    assert settled["speculative_num_draft_tokens"] == 8


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_arguments(fork_server, tiny, drafter, name):
    given, words = TOPOLOGIES[name]
    message = refusal(fork_server, flags(tiny, drafter, *given))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (None, ["--speculative-draft-model-path is missing", "pass"]),
        ("/no/such/folder", ["'/no/such/folder'", "not a folder", "pass"]),
        ("no-such-organisation/no-such-drafter", ["no-such-drafter", "pass"]),
    ],
)
def test_no_drafter(fork_server, tiny, path, words):
    message = refusal(fork_server, flags(tiny, path))
    assert all(word in message for word in words), message


def test_not_a_domino_drafter(fork_server, tiny):
    message = refusal(fork_server, flags(tiny, tiny))
    assert "not a Domino drafter" in message and "'domino'" in message and "DFLASH" in message


CONFIGS: dict[str, tuple[Callable[[dict], None], list[str]]] = {
    "missing field": (lambda c: c["dflash_config"].pop("gru_hidden_dim"), ["gru_hidden_dim is missing", "add it"]),
    "contradiction": (lambda c: c.update(emb_dim=9), ["emb_dim is 9", "8", "keep"]),
    "block of 1": (lambda c: c.update(block_size=1), ["block_size is 1", "at least 2"]),
    "hidden size": (lambda c: c.update(hidden_size=HIDDEN + 8), [str(HIDDEN + 8), str(HIDDEN)]),
    "vocabulary": (lambda c: c.update(vocab_size=VOCAB + 1), [str(VOCAB + 1), str(VOCAB)]),
    "target layers": (lambda c: c.update(num_target_layers=LAYERS + 2), [str(LAYERS + 2), str(LAYERS)]),
    "capture layers": (
        lambda c: c["dflash_config"].update(target_layer_ids=[0, LAYERS - 1]),
        ["target_layer_ids", "0 to 2"],
    ),
    "mask token": (
        lambda c: c["dflash_config"].update(mask_token_id=VOCAB),
        [f"mask_token_id is {VOCAB}", "vocabulary"],
    ),
    "pure prefix": (
        lambda c: c["dflash_config"].update(pure_draft_prefix_len=8),
        ["pure_draft_prefix_len is 8", "0 to 7"],
    ),
    "projector": (lambda c: c["dflash_config"].update(projector_type="mlp"), ["'mlp'", "'domino'"]),
    "architecture": (lambda c: c.update(architectures=["Qwen3ForCausalLM"]), ["architectures", "DominoDraftModel"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(fork_server, tiny, tmp_path, name):
    change, words = CONFIGS[name]
    config = drafter_config(json.loads((tiny / "config.json").read_text()))
    change(config)
    # Weights that fit the changed configuration where it can have any: only the target is unlike them.
    folder = tmp_path / "drafter"
    try:
        changes = {key: value for key, value in config.items() if key not in ("dflash_config", "torch_dtype")}
        write_drafter(folder, tiny, **changes, **config["dflash_config"])
    except (TypeError, ValueError):
        write_drafter(folder, tiny)
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(fork_server, flags(tiny, folder))
    assert all(word in message for word in words), message


# Flags by which SGLang reads another configuration than the files hold, of the target and of the drafter.
READ_OTHERWISE = {
    "layers": (
        {},
        ["--json-model-override-args", '{"num_hidden_layers": 2}'],
        ["num_hidden_layers 1", "with 2"],
    ),
    "vocabulary": ({}, ["--json-model-override-args", '{"vocab_size": 90}'], ["vocab_size 97", "90", "drop"]),
    "target layers": (
        {"num_hidden_layers": 2},
        ["--json-model-override-args", '{"num_hidden_layers": 2}'],
        ["num_target_layers is unlike", f"found {LAYERS}", "the target's 2"],
    ),
    "architectures": ({}, ["--json-model-override-args", '{"architectures": ["LlamaForCausalLM"]}'], ["architectures"]),
    "context": ({"max_position_embeddings": 256}, [], ["found 256", "at least 512", "--context-length 256"]),
    "asked context": ({"max_position_embeddings": 256}, ["--context-length", "257"], ["found 256", "at least 257"]),
    "model type": ({"model_type": "nonsense"}, [], ["SGLang cannot read", "nonsense", "correct its config.json"]),
    "rope": ({"rope_scaling": "wide"}, [], ["SGLang cannot read", "rope_parameters"]),
    "dtype": ({"torch_dtype": "float99"}, [], ["SGLang cannot read", "float99"]),
    "quantised": ({"quantization_config": "int8"}, [], ["quantization_config is 'int8'", "remove it"]),
    "implementation": ({}, ["--model-impl", "transformers"], ["--model-impl is 'transformers'", "drop it"]),
}


@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_configurations_as_sglang_reads_them(fork_server, tiny, tmp_path, name):
    changes, more, words = READ_OTHERWISE[name]
    folder = write_drafter(tmp_path / "drafter", tiny)
    config = json.loads((folder / "config.json").read_text()) | changes
    if "num_hidden_layers" in changes:
        write_drafter(folder, tiny, num_hidden_layers=changes["num_hidden_layers"])
    else:
        (folder / "config.json").write_text(json.dumps(config))
    message = refusal(fork_server, flags(tiny, folder, *more))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "more",
    [["--context-length", "256"], ["--json-model-override-args", '{"max_position_embeddings": 512}']],
    ids=["shorter context", "both overridden"],
)
def test_contexts_that_the_drafter_has_positions_for(fork_server, tiny, tmp_path, more):
    folder = write_drafter(tmp_path / "drafter", tiny, max_position_embeddings=256)
    assert fork_server.ask("resolve", argv=flags(tiny, folder, *more))["value"]["speculative_num_draft_tokens"] == 8


def edited(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def misshapen(tensors: dict) -> None:
    tensors["fc.weight"] = tensors["fc.weight"][:, 1:].contiguous()


TENSORS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (lambda f: edited(f, lambda t: t.pop("embed_proj.0.weight")), ["embed_proj.0.weight is missing"]),
    "misshapen": (lambda f: edited(f, misshapen), ["fc.weight", "misshapen", "expected shape"]),
    "unknown": (
        lambda f: edited(f, lambda t: t.update(extra=t["norm.weight"].clone())),
        ["extra", "no tensor of this drafter"],
    ),
    "truncated": (truncated, ["model.safetensors"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["safetensors"]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(fork_server, tiny, tmp_path, name):
    damage, words = TENSORS[name]
    folder = write_drafter(tmp_path / "drafter", tiny)
    damage(folder)
    message = refusal(fork_server, flags(tiny, folder))
    assert all(word in message for word in words), message


def launch(argv: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """``python -m sglang.launch_server`` as users run it, in a process group of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sglang.launch_server", *argv, "--port", "39999"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        start_new_session=True,
    )


def processes_with(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_the_terminal_ends_with_the_reason_and_nothing_stays_behind(tiny, tmp_path):
    folder = write_drafter(tmp_path / "drafter", tiny)
    truncated(folder)
    marker = f"refusal-{os.getpid()}-{tmp_path.name}"
    reply = launch(flags(tiny, folder), tmp_path, DOMINO_TEST_MARKER=marker)
    assert reply.returncode == 1
    last = reply.stderr.strip().splitlines()[-1]
    assert last.startswith("DOMINO cannot serve: ") and "model.safetensors" in last
    assert "Traceback" not in reply.stderr
    assert processes_with(marker) == []


def test_another_release_of_sglang_is_named(tiny, drafter, tmp_path):
    # A stand-in for another release: the installed one under another version number, set before plugins are loaded.
    (tmp_path / "sitecustomize.py").write_text("import sglang\nsglang.__version__ = '0.5.24'\n")
    reply = launch(flags(tiny, drafter), tmp_path, PYTHONPATH=str(tmp_path))
    assert reply.returncode == 1
    last = reply.stderr.strip().splitlines()[-1]
    assert "0.5.23" in last and "0.5.24" in last and "pip install sglang==0.5.23" in last
