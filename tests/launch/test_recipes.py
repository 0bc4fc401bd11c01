"""Every recipe: refuses in one line what it cannot do, says what it runs, passes flags on, and its flags exist."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launch.conftest import LAUNCH
from tests.support.sglang_double import Double
from tests.support.web import Served

RECIPES = sorted(path.name for path in LAUNCH.glob("*.sh") if path.name != "lib.sh")
ON_GPUS = {"qwen3-4b.sh": (1, 14), "qwen3-8b.sh": (1, 22), "qwen3.6-27b.sh": (2, 44)}
SGLANG = [*ON_GPUS, "cpu-demo.sh"]
REPLICAS = "http://127.0.0.1:1 http://127.0.0.1:2"


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line a refusing recipe says."""
    assert done.returncode != 0, done.stdout
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("refused: ")
    return lines[0]


def printed(done: subprocess.CompletedProcess) -> list[str]:
    """The command a dry run prints."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs: ") and done.stdout.count("\n") == 1
    return shlex.split(done.stdout.removeprefix("runs: "))


@pytest.fixture(scope="module")
def sglang_parser() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    return parser


def test_all_recipes_are_here():
    assert RECIPES == ["cpu-demo.sh", "docker.sh", "qwen3-4b.sh", "qwen3-8b.sh", "qwen3.6-27b.sh", "router.sh"]


@pytest.mark.parametrize("recipe", [*RECIPES, "lib.sh"])
def test_scripts_are_sound(recipe):
    subprocess.run(["bash", "-n", LAUNCH / recipe], check=True)
    subprocess.run(["shellcheck", "-x", "-P", LAUNCH.parent, LAUNCH / recipe], check=True, cwd=LAUNCH.parent)


def test_launch_is_no_package():
    assert not (LAUNCH / "__init__.py").exists()


# --- what will run ---


@pytest.mark.parametrize("recipe", SGLANG)
def test_flags_are_sglangs(machine, sglang_parser, recipe):
    command = printed(machine.run(recipe, "--dry-run", "--max-running-requests", "7"))
    assert command[:3] == [machine.python, "-m", "sglang.launch_server"]
    args = sglang_parser.parse_args(command[3:])
    assert args.speculative_algorithm == "DOMINO"
    assert args.max_running_requests == 7
    assert args.enable_metrics
    assert args.host == "127.0.0.1"


def test_models_of_the_recipes(machine, sglang_parser):
    def models(recipe, **env):
        args = sglang_parser.parse_args(printed(machine.run(recipe, "--dry-run", **env))[3:])
        return args.model_path, args.speculative_draft_model_path, args.tp_size

    assert models("qwen3-4b.sh") == ("Qwen/Qwen3-4B", "Huang2020/Qwen3-4B-Domino-b16", 1)
    assert models("qwen3-8b.sh") == ("Qwen/Qwen3-8B", "Huang2020/Qwen3-8B-Domino-b16", 1)
    assert models("qwen3.6-27b.sh") == ("Qwen/Qwen3.6-27B", "Huang2020/Qwen3.6-27B-Domino", 2)
    assert models("qwen3-8b.sh", TARGET="my target", DRAFTER="mine") == ("my target", "mine", 1)


def test_the_routers_flags(machine):
    command = printed(machine.run("router.sh", "--dry-run", "--log-level", "debug", REPLICAS=REPLICAS))
    assert command[1:3] == ["-m", "sglang_router.launch_router"]
    assert command[command.index("--worker-urls") + 1 :][:2] == REPLICAS.split()
    from sglang_router import launch_router

    assert launch_router.parse_router_args(command[3:]).worker_urls == REPLICAS.split()


def test_docker_command(machine):
    command = printed(machine.run("docker.sh", "--dry-run", "--detach"))
    assert command[:3] == ["docker", "compose", "--file"]
    assert command[3].endswith("launch/docker/compose.yaml")
    assert command[-1] == "--detach"


# --- refusals ---


@pytest.mark.parametrize("recipe", ON_GPUS)
def test_refuses_without_gpu(machine, recipe):
    count, gib = ON_GPUS[recipe]
    said = refusal(machine.run(recipe, PATH=f"{machine.programs}:/bin"))
    if not shutil.which("nvidia-smi"):
        assert f"{count} NVIDIA GPU(s) with at least {gib} GiB" in said
        assert "cpu-demo.sh" in said


@pytest.mark.parametrize(
    ("recipe", "gpus", "visible"),
    [
        ("qwen3-4b.sh", (8,), None),
        ("qwen3.6-27b.sh", (80,), None),
        ("qwen3.6-27b.sh", (80, 16), None),
        ("qwen3.6-27b.sh", (80, 80), "1"),
        ("qwen3-8b.sh", (80,), ""),
    ],
)
def test_refuses_too_few_or_too_small_gpus(machine, recipe, gpus, visible):
    machine.has_gpus(*gpus)
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert f"at least {ON_GPUS[recipe][1]} GiB each, and found" in refusal(machine.run(recipe, **env))


@pytest.mark.parametrize("variable", ["TARGET", "DRAFTER"])
def test_refuses_without_weights(machine, variable):
    machine.has_gpus(80, 80)
    weights = {"TARGET": machine.has_weights("target"), "DRAFTER": machine.has_weights("drafter")}
    said = refusal(machine.run("qwen3-8b.sh", **weights | {variable: "no-such/model"}))
    assert f"weights 'no-such/model' ({variable})" in said and "hf download no-such/model" in said
    assert "there is no such folder" in refusal(machine.run("qwen3-8b.sh", **weights | {variable: "/no/such/folder"}))
    empty = machine.folder / "empty"
    empty.mkdir()
    assert "holds no config.json" in refusal(machine.run("qwen3-8b.sh", **weights | {variable: str(empty)}))


def test_refuses_without_the_plugin(machine):
    machine.has_gpus(80)
    machine.has("python", "exit 1")
    said = refusal(machine.run("qwen3-4b.sh", PYTHON=str(machine.programs / "python")))
    assert "domino-sglang is not installed" in said


@pytest.mark.parametrize("recipe", [*ON_GPUS, "cpu-demo.sh"])
def test_runs_what_it_printed_when_all_is_there(machine, recipe):
    machine.has_gpus(80, 80)
    machine.only_prints()
    weights = {"TARGET": machine.has_weights("target"), "DRAFTER": machine.has_weights("drafter")}
    done = machine.run(recipe, "--api-key", "a b", **weights)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert shlex.split(first.removeprefix("runs: "))[1:] == [line.removeprefix("RUN ") for line in rest]
    assert rest[-2:] == ["RUN --api-key", "RUN a b"]


def test_the_cpu_demo_refuses_without_memory_or_drafter(machine):
    assert "99999 GiB of free memory" in refusal(machine.run("cpu-demo.sh", MIN_FREE_GIB="99999"))
    weights = {"TARGET": machine.has_weights("target"), "DRAFTER": str(machine.folder)}
    assert "holds no config.json" in refusal(machine.run("cpu-demo.sh", **weights))


def test_the_router_refuses(machine):
    assert "REPLICAS is empty" in refusal(machine.run("router.sh"))
    assert "'localhost:30001', and a URL" in refusal(machine.run("router.sh", REPLICAS="localhost:30001"))
    machine.has("python", "exit 1")
    said = refusal(machine.run("router.sh", REPLICAS=REPLICAS, PYTHON=str(machine.programs / "python")))
    assert "sglang-router is not installed" in said and said.endswith("run: pip install sglang-router")


def test_the_router_wants_replicas_that_answer(machine):
    machine.only_prints()
    # As if the router were installed.
    text = (machine.programs / "python").read_text()
    (machine.programs / "python").write_text(text.replace("exec", "[[ $* == *sglang-router* ]] && exit 0\nexec", 1))
    with Served(Double().app) as replica:
        assert machine.run("router.sh", REPLICAS=replica.url).returncode == 0
        said = refusal(machine.run("router.sh", REPLICAS=f"{replica.url} http://127.0.0.1:1"))
    assert "the replica http://127.0.0.1:1 does not answer" in said


@pytest.mark.parametrize(
    ("docker", "words"),
    [
        (None, "docker is not installed"),
        ("exit 1", "no compose plugin"),
        ("[[ $1 == compose ]]", "daemon does not answer"),
        ("echo Runtimes: runc", "no nvidia runtime"),
    ],
)
def test_docker_refuses(machine, tmp_path, docker, words):
    tools = tmp_path / "tools"
    tools.mkdir()
    for program in {*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()}:
        if program.name != "docker" and not (tools / program.name).is_symlink():
            (tools / program.name).symlink_to(program)
    if docker is not None:
        machine.has("docker", docker)
    assert words in refusal(machine.run("docker.sh", PATH=f"{machine.programs}:{tools}"))
