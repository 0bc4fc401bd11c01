"""Checkpoints that must load, and every way in which one can be wrong: said before any weight is read."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from domino_sglang.checkpoint import (
    CheckpointReport,
    check_against_target,
    check_checkpoint,
    compare_draft_tokens,
    compare_with_target,
    context_length,
    examine,
    expected_tensors,
    load_state_dict,
)
from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.core.head import DominoHead
from tests.support.drafters import OTHER_NAMES
from tests.support.drafters import SMALL as RAW
from tests.support.drafters import SMALL_TARGET as TARGET


def weights(config=None, gru_bias=False, dtype=torch.bfloat16):
    config = config or DominoConfig.from_dict(RAW)
    torch.manual_seed(0)
    return {n: torch.randn(e.shape).to(dtype) for n, e in expected_tensors(config, gru_bias=gru_bias).items()}


def save(folder, tensors, raw=RAW):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, folder / "model.safetensors")
    return folder


def save_sharded(folder, tensors, raw=RAW, shards=3):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    names, weight_map = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def refusal(folder):
    with pytest.raises(CheckpointError) as error:
        check_checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- layouts that load ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("gru_bias", [False, True])
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("store", [save, save_sharded])
def test_every_layout_loads(tmp_path, store, prefix, gru_bias, dtype):
    tensors = weights(gru_bias=gru_bias, dtype=dtype)
    folder = store(tmp_path / "drafter", {prefix + name: value for name, value in tensors.items()})
    report = check_checkpoint(folder)
    assert report.dtype == dtype and report.gru_bias == gru_bias and report.warnings == ()
    assert report.num_parameters == sum(t.numel() for t in tensors.values())
    assert report.nbytes == sum(t.numel() * t.itemsize for t in tensors.values())
    loaded = load_state_dict(str(folder))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert load_state_dict(folder, dtype=torch.float32)["norm.weight"].dtype == torch.float32


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("public", OTHER_NAMES)
def test_other_names_of_the_same_tensors_load(tmp_path, public, prefix):
    tensors = weights(gru_bias=True)
    stored = {
        prefix + (OTHER_NAMES[public] + name.removeprefix(public) if name.startswith(public) else name): value
        for name, value in tensors.items()
    }
    assert stored.keys() != {prefix + name for name in tensors}
    loaded = load_state_dict(save(tmp_path / "d", stored))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_a_tensor_under_both_its_names_is_refused(tmp_path):
    stored = weights() | {"encoder.fc.weight": weights()["fc.weight"]}
    assert "fc.weight is stored twice" in refusal(save(tmp_path / "d", stored))


def test_what_is_assumed_of_a_configuration_is_said(tmp_path):
    raw = copy.deepcopy(RAW)
    del raw["dflash_config"]["shift_label"], raw["dflash_config"]["projector_type"]
    report = check_checkpoint(save(tmp_path / "d", weights(), raw))
    assert [word for warning in report.warnings for word in ("projector_type", "shift_label") if word in warning] == [
        "projector_type",
        "shift_label",
    ]
    assert "leaves out shift_label: SpecForge's default False is taken" in report.warnings[1]


def test_a_drafter_without_a_head_is_no_domino_drafter_whatever_is_assumed(tmp_path):
    raw = copy.deepcopy(RAW)
    del raw["dflash_config"]["projector_type"]
    headless = {name: value for name, value in weights().items() if "gru" not in name and "embed_proj" not in name}
    assert "prefix_gru.weight_ih_l0 is missing" in refusal(save(tmp_path / "d", headless, raw))


def test_the_head_takes_the_loaded_names(tmp_path):
    state = load_state_dict(save(tmp_path / "d", weights(gru_bias=True)), dtype=torch.float32)
    head = DominoHead(hidden_size=32, vocab_size=50, gru_hidden_dim=10, emb_dim=6, gru_bias=True)
    head.load_state_dict({k: v for k, v in state.items() if k.startswith(("prefix_gru.", "embed_proj."))})


def test_parameters_of_each_part(tmp_path):
    report = check_checkpoint(save(tmp_path / "d", weights()))
    assert report.parameters["prefix GRU"] == 30 * 32 + 30 * 10
    assert report.parameters["correction"] == 6 * 42 + 50 * 6
    assert report.parameters["context projection"] == 32 * 96 + 32


def test_attention_biases_when_the_configuration_says_so(tmp_path):
    raw = RAW | {"attention_bias": True}
    tensors = weights(DominoConfig.from_dict(raw))
    assert "layers.1.self_attn.o_proj.bias" in tensors
    check_checkpoint(save(tmp_path / "with", tensors, raw))
    assert "q_proj.bias is missing" in refusal(save(tmp_path / "without", weights(), raw))
    assert "attention_bias false" in refusal(save(tmp_path / "unsaid", tensors))


def test_harmless_tensors(tmp_path):
    tensors = weights()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.randn(4)
    tensors["rotary_emb.inv_freq"] = torch.randn(4)
    tensors["embed_tokens.weight"] = torch.randn(50, 32)
    tensors["lm_head.weight"] = torch.randn(50, 32)
    folder = save(tmp_path / "d", tensors)
    report = check_checkpoint(folder)
    assert len(report.warnings) == 2 and all("never read" in warning for warning in report.warnings)
    assert load_state_dict(folder).keys() == weights().keys()
    tensors["lm_head.weight"] = torch.randn(49, 32)
    assert "lm_head.weight" in refusal(save(tmp_path / "d", tensors))


def test_a_file_beside_the_index_is_not_read(tmp_path):
    folder = save_sharded(tmp_path / "d", weights())
    save_file({"stale": torch.zeros(1)}, folder / "old.safetensors")
    check_checkpoint(folder)


def test_shards_without_an_index_load_when_complete(tmp_path):
    folder = save_sharded(tmp_path / "d", weights())
    (folder / "model.safetensors.index.json").unlink()
    check_checkpoint(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in refusal(folder)


def test_no_weights_are_read(tmp_path):
    """A 2 GB drafter of holes: the check sees its header only."""
    folder = save(tmp_path / "d", weights())
    raw = copy.deepcopy(RAW) | {"vocab_size": 4_000_000}
    raw["dflash_config"]["emb_dim"] = 256
    (folder / "config.json").write_text(json.dumps(raw))
    header, end = {}, 0
    for name, wanted in expected_tensors(DominoConfig.from_dict(raw)).items():
        size = 2 * torch.Size(wanted.shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(wanted.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    start = time.perf_counter()
    assert check_checkpoint(folder).nbytes == end > 2e9
    assert time.perf_counter() - start < 1


# --- files that are wrong ---


def test_no_folder(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "nowhere" in message and "not a folder" in message and "pass" in message
    (tmp_path / "file").write_text("")
    assert "not a folder" in refusal(tmp_path / "file")
    message = refusal("no-such-organisation/no-such-drafter")
    assert "no-such-drafter" in message and "neither a folder here nor" in message


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("value", ["int8", [], {}, {"quant_method": 5}, {"quant_method": "fp8"}])
def test_weights_that_are_said_to_be_quantised(tmp_path, name, value):
    message = refusal(save(tmp_path / "d", weights(), RAW | {name: value}))
    assert f"{name} is {value!r}" in message and "--speculative-draft-model-quantization" in message
    check_checkpoint(save(tmp_path / "d", weights(), RAW | {name: None}))


def test_a_file_of_modelopt_beside_the_weights(tmp_path):
    folder = save(tmp_path / "d", weights())
    (folder / "hf_quant_config.json").write_text("{")
    assert "hf_quant_config.json speaks of quantised weights" in refusal(folder)


def test_no_weights(tmp_path):
    folder = save(tmp_path / "d", weights())
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors file" in refusal(folder)
    (folder / "pytorch_model.bin").write_text("")
    assert "pytorch_model.bin" in refusal(folder) and "convert" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -5000, -1])
@pytest.mark.parametrize("store", [save, save_sharded])
def test_a_truncated_file(tmp_path, store, keep):
    folder = store(tmp_path / "d", weights())
    file = sorted(folder.glob("*.safetensors"))[-1]
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    message = refusal(folder)
    assert "truncated" in message and str(file) in message and "download" in message
    assert f"{len(data[:keep])} bytes" in message


def test_bytes_after_the_end(tmp_path):
    folder = save(tmp_path / "d", weights())
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    assert "not fully covered" in refusal(folder)


# What safetensors has to refuse, for we would believe it.
HEADERS = {
    "too many bytes": {"norm.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 5]}},
    "a gap": {"norm.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]}},
    "backwards": {"norm.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 0]}},
    "a negative size": {"norm.weight": {"dtype": "BF16", "shape": [-2], "data_offsets": [0, 4]}},
    "no offsets": {"norm.weight": {"dtype": "BF16", "shape": [2]}},
    "an unknown dtype": {"norm.weight": {"dtype": "X9", "shape": [2], "data_offsets": [0, 4]}},
    "shared bytes": {
        "norm.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "hidden_norm.weight": {"dtype": "BF16", "shape": [3], "data_offsets": [2, 8]},
    },
    "a list for a tensor": {"norm.weight": [1]},
    "a list": [1],
    "nothing at all": {},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_header(tmp_path, name):
    folder = save(tmp_path / "d", weights())
    text = json.dumps(HEADERS[name]).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"12345678")
    message = refusal(folder)
    assert "truncated or no safetensors file" in message and "model.safetensors" in message and "copy" in message


def test_a_header_longer_than_any(tmp_path):
    folder = save(tmp_path / "d", weights())
    (folder / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")
    assert "header too large" in refusal(folder)


def test_a_git_lfs_pointer(tmp_path):
    folder = save(tmp_path / "d", weights())
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(folder)


def test_a_missing_shard(tmp_path):
    folder = save_sharded(tmp_path / "d", weights())
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "model-00002-of-00003.safetensors" in message and "found 2 files, expected 3" in message
    assert "more" not in message  # the tensors of that shard would be an echo


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": 3}']
)
def test_an_unreadable_index(tmp_path, text):
    folder = save_sharded(tmp_path / "d", weights())
    (folder / "model.safetensors.index.json").write_text(text)
    message = refusal(folder)
    assert "model.safetensors.index.json" in message and "weight_map" in message


def test_an_index_that_does_not_match(tmp_path):
    folder = save_sharded(tmp_path / "d", weights())
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    wrong = copy.deepcopy(good)
    wrong["weight_map"]["norm.weight"] = "model-00001-of-00003.safetensors"
    if good["weight_map"]["norm.weight"] == "model-00001-of-00003.safetensors":
        wrong["weight_map"]["norm.weight"] = "model-00002-of-00003.safetensors"
    index.write_text(json.dumps(wrong))
    assert "norm.weight" in refusal(folder) and good["weight_map"]["norm.weight"] in refusal(folder)
    wrong = copy.deepcopy(good)
    del wrong["weight_map"]["norm.weight"]
    index.write_text(json.dumps(wrong))
    assert "norm.weight" in refusal(folder) and "no such tensor" in refusal(folder)
    wrong = copy.deepcopy(good)
    wrong["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(wrong))
    assert "ghost" in refusal(folder) and "in no file" in refusal(folder)


# --- tensors that are wrong ---


@pytest.mark.parametrize("name", sorted(weights()))
def test_any_missing_tensor(tmp_path, name):
    tensors = weights()
    shape = list(tensors.pop(name).shape)
    message = refusal(save(tmp_path / "d", tensors))
    assert name in message and "missing" in message and str(shape) in message and "config.json" in message


@pytest.mark.parametrize("name", sorted(weights()))
def test_any_misshapen_tensor(tmp_path, name):
    tensors = weights()
    shape = list(tensors[name].shape)
    tensors[name] = torch.zeros(shape[0] + 1, *shape[1:], dtype=torch.bfloat16)
    message = refusal(save(tmp_path / "d", tensors))
    assert name in message and str(list(tensors[name].shape)) in message and str(shape) in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("missing", ["prefix_gru.bias_ih_l0", "prefix_gru.bias_hh_l0"])
def test_one_gru_bias_without_the_other(tmp_path, missing):
    tensors = weights(gru_bias=True)
    del tensors[missing]
    message = refusal(save(tmp_path / "d", tensors))
    assert missing in message and "both biases or none" in message


@pytest.mark.parametrize(
    "name, words",
    [
        ("layers.2.mlp.up_proj.weight", "num_hidden_layers 2"),
        ("d2t", "without it"),
        ("embed_proj.3.weight", "without it"),
        ("model.layers.0.self_attn.sinks", "without it"),
    ],
)
def test_an_unknown_tensor(tmp_path, name, words):
    message = refusal(save(tmp_path / "d", weights() | {name: torch.zeros(48, 32, dtype=torch.bfloat16)}))
    assert name in message and words in message


def test_a_tensor_stored_twice(tmp_path):
    message = refusal(save(tmp_path / "d", weights() | {"model.norm.weight": torch.zeros(32, dtype=torch.bfloat16)}))
    assert "stored twice" in message and "model.norm.weight" in message


def test_mixed_dtypes(tmp_path):
    tensors = weights()
    tensors["norm.weight"] = tensors["norm.weight"].float()
    message = refusal(save(tmp_path / "d", tensors))
    assert "norm.weight" in message and "1 tensors of F32" in message and "BF16 throughout" in message


@pytest.mark.parametrize("dtype, word", [(torch.float64, "F64"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_unsupported_dtypes(tmp_path, dtype, word):
    tensors = weights()
    tensors["fc.weight"] = torch.zeros(tensors["fc.weight"].shape).to(dtype)
    message = refusal(save(tmp_path / "d", tensors))
    assert "fc.weight" in message and word in message and "bfloat16" in message


def test_every_problem_is_collected(tmp_path):
    tensors = weights()
    del tensors["norm.weight"]
    tensors["fc.weight"] = torch.zeros(3, 3, dtype=torch.bfloat16)
    tensors["stray"] = torch.zeros(1)
    report, problems = examine(save(tmp_path / "d", tensors))
    assert report is None and len(problems) == 3
    message = refusal(tmp_path / "d")
    assert "2 more: domino-sglang inspect" in message


def test_a_wrong_configuration_does_not_hide_wrong_files(tmp_path):
    folder = save(tmp_path / "d", weights(), RAW | {"block_size": 1})
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    _, problems = examine(folder)
    assert ["block_size" in str(p) for p in problems] == [True, False] and "truncated" in str(problems[1])


# --- the target ---


def config(**changes):
    raw = copy.deepcopy(RAW)
    raw["dflash_config"] |= changes.pop("dflash", {})
    return DominoConfig.from_dict(raw | changes)


def reported(**changes):
    return CheckpointReport(Path("some/drafter"), config(**changes), {}, torch.bfloat16, gru_bias=False)


@pytest.mark.parametrize(
    "target",
    [
        TARGET,
        {"hidden_size": 1, "text_config": TARGET},
        {"thinker_config": {"text_config": TARGET}},
        {"vocab_size": 47, "padded_vocab_size": 50, "hidden_size": 32, "num_layers": 6},
        {"n_embd": 32, "n_layer": 6, "vocab_size": 50},
    ],
)
def test_a_target_that_fits(target):
    check_against_target(reported(), target, "it")
    check_against_target(reported(), target, "it", context_length=32768)


@pytest.mark.parametrize(
    "target, words",
    [
        (TARGET | {"hidden_size": 64}, ["hidden_size", "found 32", "the target's 64"]),
        (TARGET | {"vocab_size": 64}, ["vocab_size", "found 50", "the target's 64"]),
        (TARGET | {"num_hidden_layers": 7}, ["num_target_layers", "found 6", "the target's 7"]),
        (
            TARGET | {"num_hidden_layers": 5},
            ["num_target_layers", "(1 more: domino-sglang inspect some/drafter --target it)"],
        ),
    ],
)
def test_a_target_that_does_not_fit(target, words):
    with pytest.raises(CheckpointError) as error:
        check_against_target(reported(), target, "it")
    for word in [*words, "trained for this target"]:
        assert word in str(error.value)


def test_capture_layers_and_mask_token_out_of_the_targets_range():
    rows = {row.name: row for row in compare_with_target(config(), TARGET | {"num_hidden_layers": 5, "vocab_size": 40})}
    assert "[4]" in str(rows["capture layers"].problem) and "0 to 3" in str(rows["capture layers"].problem)
    assert "found 49" in str(rows["mask token"].problem) and "below 40" in str(rows["mask token"].problem)
    assert rows["hidden size"].problem is None


@pytest.mark.parametrize("requested", [9, 16, 1, 0])
def test_draft_tokens_outside_what_was_trained(requested):
    problem = str(compare_draft_tokens(config(), requested).problem)
    assert f"--speculative-num-draft-tokens is {requested}, and this drafter takes 2 to 8" in problem
    assert "--size" in str(compare_draft_tokens(config(), requested, "--size").problem)


@pytest.mark.parametrize("requested", [2, 8])
def test_draft_tokens_that_it_was_trained_with(requested):
    assert compare_draft_tokens(config(), requested).problem is None


def test_a_drafter_of_fewer_positions_than_the_context():
    check_against_target(reported(max_position_embeddings=512), TARGET, "it", context_length=512)
    with pytest.raises(CheckpointError, match=r"found 512 .*expected at least 513; serve with --context-length 512"):
        check_against_target(reported(max_position_embeddings=512), TARGET, "it", context_length=513)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seq_length": 100},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
        {"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ],
)
def test_context_lengths_are_read_as_sglang_reads_them(changes):
    from sglang.srt.utils.hf_transformers.common import get_context_length
    from transformers import Qwen3Config

    raw = {"max_position_embeddings": 512} | changes
    assert context_length(raw) == get_context_length(Qwen3Config(**raw))


def test_targets_from_a_folder_an_object_and_nowhere(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TARGET))
    compare_with_target(config(), tmp_path)

    class Config:
        def to_dict(self):
            return {"text_config": TARGET}

    assert not any(row.problem for row in compare_with_target(config(), Config()))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        compare_with_target(config(), str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in the target"):
        compare_with_target(config(), str(tmp_path))
    with pytest.raises(CheckpointError, match="has no hidden_size"):
        compare_with_target(config(), {})


def test_a_target_name_nobody_knows(monkeypatch):
    import transformers

    def unreachable(name):
        raise OSError(f"We couldn't connect to reach {name}\nsecond line")

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", unreachable)
    with pytest.raises(CheckpointError) as error:
        compare_with_target(config(), "nobody/nothing")
    assert "nobody/nothing" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("attention_bias", [False, True])
def test_the_layer_table_is_transformers_own(attention_bias):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Config, Qwen3DecoderLayer

    ours = config(attention_bias=attention_bias)
    fields = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    layer = Qwen3DecoderLayer(Qwen3Config(attention_bias=attention_bias, **{f: getattr(ours, f) for f in fields}), 0)
    table = {n: e.shape for n, e in expected_tensors(ours).items() if n.startswith("layers.0.")}
    assert table == {f"layers.0.{n}": tuple(t.shape) for n, t in layer.state_dict().items()}
