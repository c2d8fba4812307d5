from .demo_model import (
    REPORT_STREAM,
    TEST_STREAM,
    TRAINING_STREAM,
    VALIDATION_STREAM,
    build_demo_model,
    evaluate_demo,
    train_demo,
)
from .loss_comparison import (
    ARM_RATES,
    ARMS,
    SEMANTIC_ARM,
    TARGET_KINDS,
    Setting,
    World,
    plot_arms,
    run_settings,
    summarize,
    tune,
)
from .paper_tables import TABLES, reproduce

__all__ = [
    "ARMS",
    "ARM_RATES",
    "REPORT_STREAM",
    "SEMANTIC_ARM",
    "Setting",
    "TABLES",
    "TARGET_KINDS",
    "TEST_STREAM",
    "TRAINING_STREAM",
    "VALIDATION_STREAM",
    "World",
    "build_demo_model",
    "evaluate_demo",
    "plot_arms",
    "reproduce",
    "run_settings",
    "summarize",
    "train_demo",
    "tune",
]
