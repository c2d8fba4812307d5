"""Equal values have equal fingerprints, others have others."""

import numpy as np
import pytest

from medclip_helpers.hub import fingerprint


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
