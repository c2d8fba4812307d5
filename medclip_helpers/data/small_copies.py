"""Small copies of a manifest's images, so that an epoch does not decode the large ones again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..hub import whole_file
from ..processor import MAX_READERS
from ..radiographs import open_radiograph, to_square, users_line
from .tables import check_numbers, check_table


def cache_images(
    table: pd.DataFrame,
    root: str | Path,
    folder: str | Path,
    size: int = 256,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """The manifest over copies of `size` pixels a side: 8-bit grey PNG, padded to a square.

    root: the folder of all images; the copies go into `folder` under the same names, with .png
    added. Those that have the size and are not older than their image stay, so that an interrupted
    call resumes where it stopped. An image resized twice is not the image resized once: copies are
    for training, not for numbers to be compared.

    Raises ValueError for an imgpath that is no path or outside root, and, after all others are
    written, for those that cannot be read, naming the first.
    """
    check_table(table, ["imgpath"], "table")
    check_numbers(1, size=size)
    root, folder, line = Path(root).resolve(), Path(folder), users_line()
    paths = table["imgpath"].dropna()  # a row may have text alone
    for row, path in paths.items():
        if not isinstance(path, (str, Path)):
            raise ValueError(f"row {row}: imgpath is {path!r:.60}, expected a path")
    sources = [Path(path) for path in paths.unique()]
    outside = [path for path in sources if not path.resolve().is_relative_to(root)]
    if outside:
        raise ValueError(f"{outside[0]} is not in {root}, the first of {len(outside)} images")
    copies = [folder / f"{path.resolve().relative_to(root)}.png" for path in sources]

    def is_current(source: Path, copy: Path) -> bool:
        if not copy.is_file() or copy.stat().st_mtime < source.stat().st_mtime:
            return False
        with Image.open(copy) as found:
            return found.size == (size, size)

    def write(source: Path, copy: Path) -> str | None:
        try:
            if not is_current(source, copy):
                with open_radiograph(source, line) as picture, whole_file(copy) as part:
                    small = to_square(picture).resize((size, size), Image.Resampling.BICUBIC)
                    small.save(part, "PNG")
        except (OSError, ValueError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(MAX_READERS) as pool:
        done = pool.map(write, sources, copies)
        bar = tqdm(done, "small copies", len(sources), unit="image", disable=not progress)
        errors = [error for error in bar if error]
    if errors:
        raise ValueError(f"{len(errors)} of {len(sources)} images have no copy, first: {errors[0]}")
    places = dict(zip(map(str, sources), map(str, copies), strict=True))
    return table.assign(imgpath=table["imgpath"].map(lambda path: places.get(str(path), path)))
