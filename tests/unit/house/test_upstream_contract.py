"""Every name of SGLang 0.5.23 that DOMINO rests on: a new release fails here, in words, and not in production."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import operator
from pathlib import Path

import pytest
import sglang

from domino_sglang.plugin import SGLANG_VERSION
from domino_sglang.serving import hooks as upstream
from domino_sglang.serving.algorithm import DominoAlgorithm
from domino_sglang.serving.cpu.platform import DominoCpuPlatform
from domino_sglang.serving.draft.draft_model import DominoDraftModel
from domino_sglang.serving.slots import StepSlots
from domino_sglang.serving.worker import DominoWorker

SRT = Path(sglang.__file__).parent / "srt"

# Every place in SGLang that compares an algorithm with DFLASH by name, and what that means for DOMINO.
NAME_COMPARISONS = {
    "arg_groups.attention_hook:handle_linear_attn_backend": "--enable-linear-replayssm-spec with ragged verify refused",
    "arg_groups.cp_tp_group_sharing_hook:resolve_cp_tp_group_sharing": "CP-TP group sharing (GLM-5.3-Flash) refused",
    "arg_groups.kv_cache_hook:handle_kv4_compatibility": "NVFP4 KV cache on SM100 refused, as for DFLASH",
    "arg_groups.kv_cache_hook:handle_unified_memory_pool": "hooked: as_dflash",
    "arg_groups.layernorm_sp_hook:validate_layernorm_sp": "--enable-layernorm-sp (Muse Spark) refused",
    "arg_groups.lora_hook:check_lora_speculative_compatibility": "hooked: as_dflash",
    "arg_groups.model_override_base:_forces_eagle_topk_one": "hooked: is_linear_chain",
    "arg_groups.model_overrides.minimax_m3:_minimax_m3_overrides": "MiniMax-M3.1 NVFP4 targets refused",
    "arg_groups.model_overrides.nemotron_h:_nemotron_h_overrides": "draft attention defaults to flashinfer anyway",
    "arg_groups.speculative_hook:_handle_dflash": "not called: DominoAlgorithm.handle_server_args does its work",
    "arg_groups.speculative_hook:_resolve_dflash_draft_attention_backend.get_fallback_backend": "as _handle_dflash",
    "arg_groups.speculative_hook:_resolve_dflash_draft_attention_backend.is_supported_backend": "as _handle_dflash",
    "arg_groups.speculative_hook:handle_speculative_decoding": "hooked: allow_named_flags",
    "arg_groups.validation_hook:<module>": "names the capture convention of a server without a drafter; not ours",
    "disaggregation.mooncake.conn:MooncakeKVManager._validate_peer_state_layout": (
        "a PD peer with another physical TP size is refused later, not at registration (CP-TP sharing only)"
    ),
    "managers.scheduler_components.metrics_reporter:<module>": (
        "forward-pass metrics (--enable-forward-pass-metrics) count decode KV after the step instead of before"
    ),
    "mem_cache.kv_cache_configurator:KVCacheConfigurator._build_hybrid_req_pool": (
        "--enable-linear-replayssm-spec on a model without KDA is not refused by this message"
    ),
    "speculative.dflash_worker_v2:DFlashWorkerV2.__init__": "a label in log lines",
    "speculative.dflash_worker_v2:DFlashWorkerV2.forward_batch_generation": "the draft forward calls itself DFLASH",
    "speculative.spec_info:SpeculativeAlgorithm.is_dflash": "answered by DominoAlgorithm",
    "speculative.spec_info:SpeculativeAlgorithm.supports_mixed_chunk": "answered by DominoAlgorithm",
    "speculative.spec_utils:spec_need_hidden_states": "hooked: no_hidden_state_relay",
}

HOOKED = {
    "sglang.srt.configs.model_config.ModelConfig._config_draft_model": ["self"],
    "sglang.srt.arg_groups.speculative_hook.handle_speculative_decoding": ["server_args"],
    "sglang.srt.arg_groups.lora_hook.check_lora_speculative_compatibility": None,
    "sglang.srt.arg_groups.kv_cache_hook.handle_unified_memory_pool": None,
    "sglang.srt.arg_groups.model_override_base._forces_eagle_topk_one": ["speculative_algorithm"],
    "sglang.srt.speculative.spec_utils.spec_need_hidden_states": [],
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request": ["self", "tokenized_obj"],
    "sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len": [],
    "sglang.srt.mem_cache.unified_memory_pool.init_unified_mamba_pools": None,
    "sglang.srt.mem_cache.unified_memory_pool.init_unified_mamba_swa_pools": None,
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object": [
        "self",
        "obj",
        "input_text",
        "input_ids",
        "input_embeds",
        "mm_inputs",
        "token_type_ids",
    ],
    "sglang.srt.managers.tokenizer_control_mixin.TokenizerControlMixin.release_memory_occupation": [
        "self",
        "obj",
        "request",
    ],
    "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager.resume_memory_occupation": [
        "self",
        "recv_req",
    ],
    "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager._select_runners": [
        "self",
        "selector",
    ],
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.update_weights_from_tensor": [
        "self",
        "recv_req",
    ],
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.update_weights_from_distributed": [
        "self",
        "recv_req",
    ],
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_disk": [
        "self",
        "model_path",
        "load_format",
    ],
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_ipc": [
        "self",
        "recv_req",
    ],
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_tensor": [
        "self",
        "named_tensors",
        "load_format",
    ],
    "sglang.srt.managers.multi_tokenizer_mixin.write_data_for_multi_tokenizer": [
        "port_args",
        "server_args",
        "scheduler_info",
    ],
    "sglang.srt.managers.schedule_batch.Req.update_finish_state": ["self", "new_accepted_len"],
    "sglang.srt.mem_cache.allocation.assign_req_to_token_pool_func": [
        "req_pool_indices",
        "req_to_token",
        "start_offset",
        "end_offset",
        "out_cache_loc",
        "batch_size",
    ],
    "sglang.srt.mem_cache.allocation.get_last_loc": [
        "req_to_token",
        "req_pool_indices_tensor",
        "prefix_lens_tensor",
    ],
    "sglang.srt.managers.schedule_batch.ScheduleBatch._new_tokens_required_next_decode_spec_v2": [
        "self",
        "requests",
        "page_size",
    ],
    "sglang.srt.speculative.dflash_info_v2.DFlashDraftInputV2.prepare_for_decode": ["self", "batch"],
    "sglang.srt.mem_cache.allocation_sizing.page_aligned_decode_alloc_lens": ["reqs", "reserve", "page_size"],
    "sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram": ["self", "num_correct_drafts"],
}

# Methods of DFlashWorkerV2 that DominoWorker replaces or wraps: their parameters in this release.
OVERRIDDEN = {
    "__init__": ["self", "server_args", "gpu_id", "nccl_port", "target_worker"],
    "forward_batch_generation": ["self", "batch"],
    "_validate_phase1_sampling_support": ["self", "batch"],
    "init_cuda_graphs": ["self"],
    "on_verify_complete_cpu": ["self", "num_correct_drafts_per_req", "batch_size"],
    "_maybe_build_draft_sampler": ["self"],
    "_prewarm_batch_size": ["self", "block_size"],
    "_measure_sampling_peak": ["self", "candidates", "target_logits", "sampling_info"],
    "_greedy_sample_from_vocab_parallel_head": ["self", "hidden_states", "lm_head", "chunk_size"],
    "_can_skip_verify_logits": ["self", "batch", "sampling_info"],
    "_append_target_hidden_to_draft_kv_by_loc": ["self", "target_hidden", "cache_loc", "positions"],
    "_accept_block": [
        "self",
        "candidates",
        "next_token_logits",
        "sampling_info",
        "draft_input",
        "prefix_lens",
        "bs",
        "target_predict",
    ],
}


def test_the_pinned_release_is_installed():
    assert sglang.__version__ == SGLANG_VERSION


def dflash_comparisons() -> set[str]:
    """``module:function`` of every use of the name "DFLASH" as a value in SGLang's runtime."""
    found = set()
    for file in SRT.rglob("*.py"):
        text = file.read_text()
        if "DFLASH" in text:
            module = ".".join(file.relative_to(SRT).with_suffix("").parts)
            _collect(ast.parse(text), module, [], found)
    return found


def _collect(node: ast.AST, module: str, inside: list[str], found: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if (isinstance(child, ast.Constant) and child.value == "DFLASH") or (
            isinstance(child, ast.Attribute) and child.attr == "DFLASH"
        ):
            found.add(f"{module}:{'.'.join(inside) or '<module>'}")
        _collect(child, module, [*inside, child.name] if named else inside, found)


def test_every_comparison_with_the_name_is_known():
    found = dflash_comparisons()
    assert found - set(NAME_COMPARISONS) == set(), "new comparisons with DFLASH: what do they mean for DOMINO?"
    assert set(NAME_COMPARISONS) - found == set(), "gone from SGLang: drop them here and in upstream.py"


def resolve(dotted: str):
    module, attributes = dotted, []
    while True:
        try:
            return functools.reduce(getattr, reversed(attributes), importlib.import_module(module))
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.append(last)


@pytest.mark.parametrize("target", HOOKED)
def test_hooked_functions_have_the_parameters_we_use(target):
    function = inspect.unwrap(resolve(target))
    assert callable(function)
    if HOOKED[target] is not None:
        assert list(inspect.signature(function).parameters)[: len(HOOKED[target])] == HOOKED[target]


def test_upstream_registers_only_known_hooks(monkeypatch):
    registered = []
    monkeypatch.setattr(upstream.HookRegistry, "register", lambda target, *_args, **_kwargs: registered.append(target))
    monkeypatch.setattr(upstream.HookRegistry, "apply_hooks", lambda: None)
    upstream.install_hooks()
    # By the worker, in the scheduler; the metrics' last one too.
    StepSlots(8, len).manage()
    metrics = {"sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram"}
    assert set(registered) | metrics == set(HOOKED)


def test_hooks_and_comparisons_tell_the_same_story():
    said = {name.replace(":", ".") for name, effect in NAME_COMPARISONS.items() if effect.startswith("hooked")}
    assert said <= {target.removeprefix("sglang.srt.") for target in HOOKED}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_worker_methods(name):
    base = DominoWorker.__mro__[1]
    assert base.__name__ == "DFlashWorkerV2"
    theirs = list(inspect.signature(getattr(base, name)).parameters)
    assert theirs[: len(OVERRIDDEN[name])] == OVERRIDDEN[name]


def test_nothing_of_the_worker_is_overridden_by_accident():
    base = DominoWorker.__mro__[1]
    shared = {name for name in vars(DominoWorker) if name in dir(base) and not name.startswith(("__", "_abc"))}
    assert shared == set(OVERRIDDEN) - {"__init__"}


def test_worker_attributes_and_helpers_that_we_read():
    source = inspect.getsource(importlib.import_module("sglang.srt.speculative.dflash_worker_v2"))
    for attribute in (
        "self._block_verification",
        "self._noise_embed_scale",
        "self._target_worker",
        "self._tp_sync",
        "self.block_size",
        "self.draft_model",
        "self.model_runner",
        "def _commit_accept(",
    ):
        assert attribute in source, f"DFlashWorkerV2 has no {attribute} any more"


def test_graphs_are_captured_for_the_sizes_that_adaptive_blocks_set():
    from sglang.srt.model_executor.runner import decode_cuda_graph_runner, get_batch_sizes_to_capture

    assert "get_exec().graph.cuda_graph_config.decode.bs" in inspect.getsource(get_batch_sizes_to_capture)
    assert "self.capture_bs, " in inspect.getsource(decode_cuda_graph_runner)


def test_configurations_are_read_as_the_workers_read_them():
    """``model_configs`` builds both models' configurations before any worker does."""
    from sglang.srt.arg_groups.model_override_base import model_config_of
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.environ import envs

    parameters = list(inspect.signature(ModelConfig.from_server_args).parameters)
    assert parameters[:5] == ["server_args", "model_path", "model_revision", "is_draft_model", "context_length"]
    assert list(inspect.signature(model_config_of).parameters) == ["server_args"]
    assert envs.SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN.get() in (True, False)


def test_tensor_parallel_sync_sites():
    from sglang.srt.speculative.spec_tp_sync import SpecTpSyncSite

    assert SpecTpSyncSite.DFLASH_ACCEPT_SAMPLE.slug == "dflash-accept-sample"


def test_the_algorithm_answers_every_question():
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    asked = {name for name, value in vars(SpeculativeAlgorithm).items() if inspect.isfunction(value)}
    # Constructors, and a step of the built-in create_worker.
    asked -= {"register", "from_string", "get_platform_worker_cls"}
    missing = {name for name in asked if not name.startswith("_") and not hasattr(DominoAlgorithm, name)}
    assert not missing, f"SGLang asks algorithms for {sorted(missing)}, which DominoAlgorithm cannot answer"


def test_the_algorithm_answers_as_dflash_does():
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    ours = DominoAlgorithm("DOMINO", lambda _args: None, supports_overlap=True)
    theirs = SpeculativeAlgorithm.DFLASH
    questions = [
        name
        for name in vars(SpeculativeAlgorithm)
        if name.startswith(("is_", "supports_", "has_", "need_", "carries_"))
    ]
    unlike = {name for name in questions if _answer(ours, name) != _answer(theirs, name)}
    assert unlike <= {"supports_overlap"}, f"DOMINO and DFLASH differ in {sorted(unlike)}"


def _answer(algorithm, name):
    value = getattr(algorithm, name)
    return value() if callable(value) else value


def test_sampling_information_fields():
    from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

    fields = {field.name for field in dataclasses.fields(SamplingBatchInfo)}
    needed = {
        "temperatures",
        "top_ps",
        "top_ks",
        "min_ps",
        "is_all_greedy",
        "need_top_p_sampling",
        "need_top_k_sampling",
        "need_min_p_sampling",
        "penalizer_orchestrator",
        "acc_additive_penalties",
        "acc_scaling_penalties",
        "logit_bias",
        "sampling_seed",
        "device",
        "vocab_size",
    }
    assert needed <= fields


def test_a_forward_sees_penalties_accumulated_and_decoding_requests_last():
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

    # Both schedulers hand the worker such a copy, and the penalties of a request with a past are written over its rows.
    assert "copy_for_forward()" in inspect.getsource(Scheduler._forward_isolation)
    assert "penalizer_orchestrator=None" in inspect.getsource(SamplingBatchInfo.copy_for_forward)
    assert "self.merge_batch(running_batch)" in inspect.getsource(ScheduleBatch.mix_with_running)
    fields = {field.name for field in dataclasses.fields(ScheduleBatch)}
    assert {"decoding_reqs", "seq_lens", "input_ids", "sampling_info", "reqs"} <= fields


def test_the_sampler_draws_where_the_seed_is_put_in():
    from sglang.srt.layers.sampler import Sampler

    parameters = list(inspect.signature(Sampler._sample_from_probs).parameters)
    assert parameters == ["self", "probs", "sampling_info", "positions", "simple_sampling_case"]


def test_the_draft_model_is_a_dflash_backbone():
    base = DominoDraftModel.__mro__[1]
    assert base.__name__ == "DFlashDraftModel"
    assert list(inspect.signature(base.forward).parameters)[:5] == [
        "self",
        "input_ids",
        "positions",
        "forward_batch",
        "input_embeds",
    ]
    assert list(inspect.signature(base.load_weights).parameters) == ["self", "weights"]


def test_request_fields_of_the_token_ledger():
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    source = inspect.getsource(Req)
    for field in ("self.output_ids", "self.origin_input_ids", "self.rid", "self.eos_token_ids", "self.kv"):
        assert field in source, f"Req has no {field} any more"
    params = SamplingParams()
    for field in (
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_new_tokens",
        "sampling_seed",
        "top_k",
        "stop_token_ids",
    ):
        assert operator.attrgetter(field)(params) is not NotImplemented


def test_the_cpu_platform_fills_every_gap():
    from sglang.srt.platforms.interface import SRTPlatform

    for name in (
        "apply_server_args_defaults",
        "get_default_attention_backend",
        "get_default_speculative_draft_attention_backend",
        "supports_speculative_algorithm",
        "supports_speculative_draft_attention_backend",
        "get_speculative_cache_locs_fn",
        "get_kv_pool_cls",
        "get_compile_backend",
        "init_backend",
    ):
        assert hasattr(SRTPlatform, name), f"SGLang's platforms have no {name} any more"
        assert name in vars(DominoCpuPlatform)
