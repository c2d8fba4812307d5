"""The number of our file format, in `config.json` and in saved results, and what it means.

1: the first. A file without a number is from before the first release and is read as 1. A higher
number is refused: a newer release may have changed what the old names mean. A change that old
readers would misread gets the next number, and the new reader keeps reading the old ones here.
"""

from __future__ import annotations

from collections.abc import Mapping

FORMAT = 1


def check_format(content: Mapping, where: object) -> None:
    """ValueError where `content`, what the file `where` says, is of a newer format than FORMAT."""
    found = content.get("format", FORMAT)
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= FORMAT:
        raise ValueError(
            f"{where} is of format {found!r}, and this release of medclip-helpers reads up to "
            f"{FORMAT}: a newer release may read it"
        )
