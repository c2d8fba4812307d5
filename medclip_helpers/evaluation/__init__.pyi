from .calibration import calibrate, pair_probabilities
from .checking import check_numbers
from .intervals import bootstrap, percentile_interval
from .metrics import AVERAGE, accuracy_and_auroc, confusion, evaluate_classification, is_right
from .pointing import pointing_game, pointing_hits
from .published import (
    IN_DOMAIN,
    PUBLISHED_METHODS,
    PUBLISHED_SOURCE,
    PUBLISHED_TEST_IMAGES,
    compare_with_published,
    published_zero_shot,
    zero_shot_of,
)
from .retrieval import precision_at_k, recall_at_k
from .zero_shot import (
    PROMPT_RULES,
    Draws,
    class_scores,
    pair_scores,
    prompt_scores,
    zero_shot_draws,
    zero_shot_evaluator,
)

__all__ = [
    "AVERAGE",
    "Draws",
    "IN_DOMAIN",
    "PROMPT_RULES",
    "PUBLISHED_METHODS",
    "PUBLISHED_SOURCE",
    "PUBLISHED_TEST_IMAGES",
    "accuracy_and_auroc",
    "bootstrap",
    "calibrate",
    "check_numbers",
    "class_scores",
    "compare_with_published",
    "confusion",
    "evaluate_classification",
    "is_right",
    "pair_probabilities",
    "pair_scores",
    "percentile_interval",
    "pointing_game",
    "pointing_hits",
    "precision_at_k",
    "prompt_scores",
    "published_zero_shot",
    "recall_at_k",
    "zero_shot_draws",
    "zero_shot_evaluator",
    "zero_shot_of",
]
