from .demo_model import build_demo_model, train_demo
from .loss_comparison import (
    ARMS,
    RATES,
    SEMANTIC,
    TARGETS,
    Setting,
    World,
    plot_arms,
    run,
    summarize,
    tune,
)

__all__ = [
    "ARMS",
    "RATES",
    "SEMANTIC",
    "Setting",
    "TARGETS",
    "World",
    "build_demo_model",
    "plot_arms",
    "run",
    "summarize",
    "train_demo",
    "tune",
]
