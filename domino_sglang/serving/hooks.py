"""Where SGLang 0.5.23 has to be told that DOMINO is of the DFLASH family.

Most of SGLang asks an algorithm what it can do (``is_dflash_family()`` and the like). The places below compare its
*name* instead, or read the drafter's configuration before the worker exists. Each is listed with what it would cost.
``tests/unit/house/test_upstream_contract.py`` holds this file against the installed SGLang.
"""

from __future__ import annotations

from collections.abc import Callable

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from domino_sglang.serving.memory_occupation import guard_release, resume_what_was_released
from domino_sglang.serving.observe.settled import settled
from domino_sglang.serving.refusal import refusing
from domino_sglang.serving.request_guard import guard_request
from domino_sglang.serving.sampling.choices import reseed_next_choice
from domino_sglang.serving.slots import row_headroom, with_row_headroom
from domino_sglang.serving.tokenizer_workers import send_plugins
from domino_sglang.serving.weight_updates import (
    all_or_nothing,
    answered,
    load_from_disk,
    runners_to_update,
    update_from_memory,
)

NAME = "DOMINO"
STANDS_FOR = "DFLASH"

# Functions of the server arguments that compare the algorithm's name, and what each would cost DOMINO.
NAME_CHECKS_ON_SERVER_ARGS = {
    "sglang.srt.arg_groups.lora_hook.check_lora_speculative_compatibility": "targets with LoRA adapters refused",
    "sglang.srt.arg_groups.kv_cache_hook.handle_unified_memory_pool": "--enable-unified-memory refused",
}

# Builders of pools that size the rows of requests by themselves.
UNIFIED_POOLS = (
    "sglang.srt.mem_cache.unified_memory_pool.init_unified_mamba_pools",
    "sglang.srt.mem_cache.unified_memory_pool.init_unified_mamba_swa_pools",
)
# What a DOMINO server refuses, or does, where SGLang would end.
GUARDS: dict[str, Callable] = {
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object": guard_request,
    "sglang.srt.managers.tokenizer_control_mixin.TokenizerControlMixin.release_memory_occupation": guard_release,
    "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager.resume_memory_occupation": (
        resume_what_was_released
    ),
    "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager._select_runners": (
        runners_to_update
    ),
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.update_weights_from_tensor": update_from_memory,
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.update_weights_from_distributed": update_from_memory,
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_disk": (
        load_from_disk
    ),
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_ipc": (
        all_or_nothing
    ),
    "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_tensor": (
        answered
    ),
}

_targets: list[str] = []


def register(target: str, hook: Callable, hook_type: HookType) -> None:
    """Register one hook and remember it for :func:`require_hooks`."""
    _targets.append(target)
    HookRegistry.register(target, hook, hook_type)


def require_hooks() -> None:
    """Make sure SGLang applied every hook: it only logs one that fails.

    Raises:
        ValueError: names the hooks that did not take.
    """
    missing = [target for target in _targets if target not in HookRegistry._patched]
    if missing:
        raise ValueError(
            f"SGLang did not apply DOMINO's hooks on {missing}; is this SGLang 0.5.23, unmodified? "
            "Run domino-sglang doctor"
        )


def install_hooks() -> None:
    """Register DOMINO's hooks with SGLang, which applies them when all plugins are loaded."""
    _targets.clear()
    register(
        "sglang.srt.configs.model_config.ModelConfig._config_draft_model", present_as_dflash_drafter, HookType.AFTER
    )
    register("sglang.srt.arg_groups.speculative_hook.handle_speculative_decoding", allow_named_flags, HookType.AROUND)
    for target in NAME_CHECKS_ON_SERVER_ARGS:
        register(target, as_dflash, HookType.AROUND)
    register("sglang.srt.arg_groups.model_override_base._forces_eagle_topk_one", is_linear_chain, HookType.AFTER)
    register("sglang.srt.speculative.spec_utils.spec_need_hidden_states", no_hidden_state_relay, HookType.AFTER)
    register(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request", reseed_next_choice, HookType.AROUND
    )
    register("sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len", row_headroom, HookType.AFTER)
    for target in UNIFIED_POOLS:
        register(target, with_row_headroom, HookType.AROUND)
    for target, guard in GUARDS.items():
        register(target, on_domino(guard), HookType.AROUND)
    register("sglang.srt.managers.multi_tokenizer_mixin.write_data_for_multi_tokenizer", send_plugins, HookType.AROUND)
    register("sglang.srt.managers.schedule_batch.Req.update_finish_state", settled, HookType.AFTER)
    if _on_cpu_platform():
        from domino_sglang.serving.cpu.memory import assign_req_to_token_pool_func, get_last_loc

        register(
            "sglang.srt.mem_cache.allocation.assign_req_to_token_pool_func",
            assign_req_to_token_pool_func,
            HookType.REPLACE,
        )
        register("sglang.srt.mem_cache.allocation.get_last_loc", get_last_loc, HookType.REPLACE)


def on_domino(hook: Callable) -> Callable:
    """The hook for servers that run DOMINO; others keep SGLang's own function."""

    def around(original: Callable, *args, **kwargs):
        from sglang.srt.runtime_context import get_spec

        if get_spec().speculative_algorithm != NAME:
            return original(*args, **kwargs)
        return hook(original, *args, **kwargs)

    return around


def present_as_dflash_drafter(_result, model_config) -> None:
    """Let upstream read a Domino drafter's configuration as that of its backbone, a DFlash drafter.

    Upstream refuses ``projector_type: domino`` off CUDA and BF16 and with any ``pure_draft_prefix_len`` but 1; the head
    is ours, and reads its own fields from ``hf_config.domino``.
    """
    if not model_config.is_draft_model or (model_config.speculative_algorithm or "").upper() != NAME:
        return
    config = model_config.hf_config
    if hasattr(config, "domino"):
        return
    raw = config.to_dict()
    dflash = dict(raw.get("dflash_config") or {})
    config.domino = raw
    config.architectures = ["DominoDraftModel"]
    config.dflash_config = {key: value for key, value in dflash.items() if key != "projector_type"}
    if hasattr(config, "projector_type"):
        config.projector_type = None


def as_dflash(original: Callable, server_args, *args, **kwargs):
    """Call a function of the server arguments that knows DOMINO's abilities under the name DFLASH."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    if resolving_view(server_args).speculative_algorithm != NAME:
        return original(server_args, *args, **kwargs)
    declare_resolution(server_args, "domino", speculative_algorithm=STANDS_FOR)
    try:
        return original(server_args, *args, **kwargs)
    finally:
        declare_resolution(server_args, "domino", speculative_algorithm=NAME)


# Flags that upstream ties to the names of its own algorithms, and what each holds when it is off.
_NAMED_FLAGS = {
    "speculative_use_block_verification": False,
    "speculative_draft_window_size": None,
    "speculative_adaptive": False,
}


def allow_named_flags(original: Callable, server_args) -> None:
    """Keep flags that upstream refuses, or calls without effect, for names it does not know.

    Raises:
        Refusal: the drafter or an argument cannot be served.
    """
    from sglang.srt.arg_groups.overrides import resolving_view

    from domino_sglang.serving.model_configs import read_drafter

    view = resolving_view(server_args)
    if (view.speculative_algorithm or "").upper() != NAME:
        return original(server_args)
    with refusing():
        # Upstream reads the drafter's configuration before it asks DOMINO, and would complain in the hub's words.
        read_drafter(view)
        _resolve_with_flags(original, server_args, view)


def _resolve_with_flags(original: Callable, server_args, view) -> None:
    from sglang.srt.arg_groups.overrides import declare_resolution

    kept = {flag: getattr(view, flag) for flag in _NAMED_FLAGS}
    declare_resolution(server_args, "domino", **_NAMED_FLAGS)
    try:
        original(server_args)
    finally:
        declare_resolution(server_args, "domino", **kept)
    if kept["speculative_adaptive"]:
        from domino_sglang.serving.adaptive.blocks import check_flags

        check_flags(view)
    window = kept["speculative_draft_window_size"]
    if window is not None and window < view.speculative_num_draft_tokens:
        raise ValueError(
            f"--speculative-draft-window-size is {window}, and it must cover at least one block of "
            f"{view.speculative_num_draft_tokens} tokens; raise it or drop it"
        )


def is_linear_chain(result: bool, speculative_algorithm) -> bool:
    """DOMINO verifies one chain, so the default attention backend is the fast one (FA3 on Hopper)."""
    return result or str(speculative_algorithm).upper() == NAME


def no_hidden_state_relay(result: bool) -> bool:
    """DOMINO's context lives in the draft KV cache; no hidden state travels from step to step."""
    from sglang.srt.runtime_context import get_spec

    return result and get_spec().speculative_algorithm != NAME


def _on_cpu_platform() -> bool:
    from sglang.srt.platforms import current_platform

    return current_platform.is_out_of_tree() and type(current_platform).__module__.startswith("domino_sglang")
