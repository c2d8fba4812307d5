"""Which class an image is of, where it is one."""

import numpy as np
import pandas as pd
import pytest

from medclip_helpers.data import class_numbers, is_exclusive


def test_class_numbers_and_exclusive_rows():
    rows = pd.DataFrame({"a": [1, 0, 1, -1, np.nan], "b": [0, 1, 1, 1, 0]})
    exclusive = is_exclusive(rows, ["a", "b"])
    assert exclusive.tolist() == [True, True, False, True, False]
    assert class_numbers(rows[exclusive], ["a", "b"]).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"row 2 has \['a', 'b'\], expected exactly one"):
        class_numbers(rows, ["a", "b"])
    with pytest.raises(ValueError, match="none of 1 images has exactly one"):
        is_exclusive(rows[2:3], ["a", "b"])
