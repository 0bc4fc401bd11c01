import pytest

from domino_sglang.measure.provenance import command, slug, without_folders


def test_a_folders_name_is_short():
    assert slug("Intel(R) Xeon(R) CPU @ 2.20GHz, 2 cores, no GPU") == "intel-xeon-2-cores"
    assert slug("1 x NVIDIA H100 80GB HBM3") == "1-x-nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--drafter /home/me/drafter --x", "--drafter .../drafter --x"),
        ("http://127.0.0.1:30000/v1/models", "http://127.0.0.1:30000/v1/models"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("at /opt/lib/python/file.py:3", "at .../file.py:3"),
    ],
)
def test_folders_of_this_machine_are_not_told(text, shown):
    assert without_folders(text) == shown


def test_the_command_can_be_pasted():
    assert command(["bench", "sweep", "--arm", "NGRAM=--a b"]) == "domino-sglang bench sweep --arm 'NGRAM=--a b'"
