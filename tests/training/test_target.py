"""The demo target: cached once, fetched without a hub, refused in words when something is wrong."""

from __future__ import annotations

import subprocess

import pytest

from domino_sglang.demo import target as module
from domino_sglang.demo.target import CHECKPOINT_NAME, DemoTargetError, cache_root, prepare_target


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(module, "_installed_gguf", lambda: None)


def finished(folder):
    done = folder / CHECKPOINT_NAME
    done.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (done / name).write_text("{}")
    return done


def test_a_prepared_target_is_returned_at_once(tmp_path, monkeypatch):
    done = finished(tmp_path)
    monkeypatch.setattr(module, "_installed_gguf", lambda: pytest.fail("looked for the package again"))
    assert prepare_target(tmp_path, progress=False) == done
    monkeypatch.setenv("DOMINO_SGLANG_CACHE", str(tmp_path))
    assert cache_root() == tmp_path and prepare_target(progress=False) == done


def test_a_damaged_file_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    monkeypatch.setattr(module, "_installed_gguf", lambda: tmp_path / "x.gguf")
    with pytest.raises(DemoTargetError, match="sha256"):
        prepare_target(tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_way_to_fetch_is_explained(tmp_path, monkeypatch, nothing_installed):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DemoTargetError, match="neither uv nor pip"):
        prepare_target(tmp_path, progress=False)


def test_a_failed_download_shows_its_reason(tmp_path, monkeypatch, nothing_installed):
    failed = subprocess.CompletedProcess([], 1, "", "no route to the index")
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(DemoTargetError, match="no route to the index"):
        prepare_target(tmp_path, progress=False)


def test_whoever_is_first_wins(tmp_path):
    staged = finished(tmp_path / "mine")
    theirs = finished(tmp_path / "cache")
    (theirs / "config.json").write_text('{"first": true}')
    module._publish(staged, theirs)
    assert "first" in (theirs / "config.json").read_text()
    half = tmp_path / "half" / CHECKPOINT_NAME
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    module._publish(staged, half)  # an incomplete one is replaced
    assert (half / "tokenizer.json").is_file()


def test_the_real_one_speaks():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = module.prepare_target(progress=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    question = [{"role": "user", "content": "Write a python function that returns the sum of a list."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert "def sum_list(" in tokenizer.decode(out[0])
