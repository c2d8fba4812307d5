from .calibration import calibrate, pair_probabilities
from .checking import check_numbers
from .intervals import bootstrap, percentile_interval
from .metrics import AVERAGE, accuracy_and_auroc, confusion, evaluate_classification, is_right
from .pointing import pointing_game, pointing_hits
from .protocols import PROTOCOLS, draw_prompts, evaluate_zero_shot
from .published import (
    IN_DOMAIN,
    PUBLISHED_METHODS,
    PUBLISHED_RULES,
    PUBLISHED_SOURCE,
    PUBLISHED_TEST_IMAGES,
    compare_with_published,
    published_zero_shot,
    zero_shot_of,
)
from .retrieval import precision_at_k, recall_at_k
from .zero_shot import (
    PROMPT_RULES,
    class_scores,
    pair_scores,
    prompt_scores,
    zero_shot_evaluator,
)

__all__ = [
    "AVERAGE",
    "IN_DOMAIN",
    "PROMPT_RULES",
    "PROTOCOLS",
    "PUBLISHED_METHODS",
    "PUBLISHED_RULES",
    "PUBLISHED_SOURCE",
    "PUBLISHED_TEST_IMAGES",
    "accuracy_and_auroc",
    "bootstrap",
    "calibrate",
    "check_numbers",
    "class_scores",
    "compare_with_published",
    "confusion",
    "draw_prompts",
    "evaluate_classification",
    "evaluate_zero_shot",
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
    "zero_shot_evaluator",
    "zero_shot_of",
]
