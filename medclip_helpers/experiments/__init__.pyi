from .demo_model import build_demo_model, evaluate_demo, train_demo
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

__all__ = [
    "ARMS",
    "ARM_RATES",
    "SEMANTIC_ARM",
    "Setting",
    "TARGET_KINDS",
    "World",
    "build_demo_model",
    "evaluate_demo",
    "plot_arms",
    "run_settings",
    "summarize",
    "train_demo",
    "tune",
]
