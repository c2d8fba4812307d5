from .calibration import calibrate, pair_probabilities
from .metrics import (
    AVERAGE,
    bootstrap,
    confusion,
    evaluate_classification,
    percentile_interval,
    predict,
)
from .pointing import pointing_game, pointing_hits
from .published import (
    IN_DOMAIN,
    METHODS,
    SOURCE,
    TEST_IMAGES,
    compare_with_published,
    published_zero_shot,
    zero_shot_of,
)
from .retrieval import precision_at_k, recall_at_k
from .zero_shot import (
    RULES,
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
    "METHODS",
    "RULES",
    "SOURCE",
    "TEST_IMAGES",
    "bootstrap",
    "calibrate",
    "class_scores",
    "compare_with_published",
    "confusion",
    "evaluate_classification",
    "pair_probabilities",
    "pair_scores",
    "percentile_interval",
    "pointing_game",
    "pointing_hits",
    "precision_at_k",
    "predict",
    "prompt_scores",
    "published_zero_shot",
    "recall_at_k",
    "zero_shot_draws",
    "zero_shot_evaluator",
    "zero_shot_of",
]
