"""How a difference between DOMINO and plain decoding is found and said."""

from __future__ import annotations

from domino_sglang.bench.exactness.compare import compare


class Fixed:
    """A server that gives every token the log-probability of its table."""

    def __init__(self, table: dict[int, float]):
        self.table, self.prefixes = table, []

    def generate(self, prefix, sampling, *, return_logprob, token_ids_logprob):
        self.prefixes.append(prefix)
        entries = [[self.table[token], token, None] for token in token_ids_logprob]
        return {"meta_info": {"output_token_ids_logprobs": [entries]}}


def differences(plain: list[int], domino: list[int], ar: Fixed, ours: Fixed):
    return compare({"code 0": [1, 2]}, [plain], [domino], plain_client=ar, domino_client=ours)


def test_equal_outputs_are_no_difference():
    assert differences([5, 6], [5, 6], Fixed({}), Fixed({})) == []


def test_the_first_differing_token_is_shown_with_both_gaps():
    ar, ours = Fixed({7: -1.0, 8: -1.5}), Fixed({7: -1.25, 8: -1.2})
    (found,) = differences([5, 7, 9], [5, 8, 9], ar, ours)
    assert (found.position, found.plain, found.domino) == (1, 7, 8)
    assert ar.prefixes == ours.prefixes == [[1, 2, 5]]
    assert round(found.gaps["AR"], 6) == 0.5
    assert round(found.gaps["DOMINO"], 6) == -0.05
    assert "code 0: token 1 is 8, plain decoding's is 7" in str(found)


def test_a_shorter_output_is_a_difference():
    (found,) = differences([5, 7], [5], Fixed({}), Fixed({}))
    assert (found.position, found.plain, found.domino) == (1, 7, None)
