"""Equal values have equal fingerprints, others have others."""

import hashlib

import numpy as np
import pytest

from medclip_helpers.hub import describe_weights, fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (([1], 2), ([1, 2],)),
        (({"a": [1], "b": 2},), ({"a": [1, "b", 2]},)),
        (([[1], [2]],), ([[1, [2]]],)),
        (("12",), ("1", "2")),
        ((1,), ("1",)),
        ((True,), (1,)),
        ((None,), ("None",)),
        ((np.float32([1, 2]),), (np.float64([1, 2]),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
    ],
)
def test_what_differs_has_another_fingerprint(one, other):
    assert fingerprint(*one) == fingerprint(*one)
    assert fingerprint(*one) != fingerprint(*other)


def test_weights_of_half_precision_have_a_hash_and_others_keep_theirs():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 1)
    torch.nn.init.ones_(layer.weight), torch.nn.init.zeros_(layer.bias)
    before = describe_weights(layer)["sha256"]
    expected = hashlib.sha256()
    for name, values in (("bias", np.zeros(1, "f4")), ("weight", np.ones((1, 2), "f4"))):
        expected.update(f"{name} float32 {values.shape}".encode() + values.tobytes())
    assert before == expected.hexdigest()
    assert describe_weights(layer.bfloat16())["sha256"] != before
