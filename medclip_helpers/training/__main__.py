"""`python -m medclip_helpers.training --config run.yaml`: pretraining, under torchrun too."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from .. import hub, training


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m medclip_helpers.training",
        description="Pretrain MedCLIP as a run file says.",
        epilog=training.RUN_FILE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="the run file")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    expected = (ValueError, FileNotFoundError, hub.DownloadError, training.TrainingStopped)
    try:
        result = training.train_from_file(options.config, options.resume)
    except expected as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    logging.info("best at step %s; the model is in %s", result.best_step, result.folder)


if __name__ == "__main__":
    main()
