from .building import build_model
from .config import RUN_FILE, TrainingConfig
from .fine_tuning import (
    LEARNING_RATES,
    build_classifier,
    evaluate_method,
    fit,
    method_config,
    predict_logits,
)
from .heads import (
    ImageSuperviseLoss,
    PromptTuningClassifier,
    SuperviseClassifier,
    classification_loss,
)
from .run_file import train_from_file
from .trainer import TrainingResult, TrainingStopped, train

__all__ = [
    "ImageSuperviseLoss",
    "LEARNING_RATES",
    "PromptTuningClassifier",
    "RUN_FILE",
    "SuperviseClassifier",
    "TrainingConfig",
    "TrainingResult",
    "TrainingStopped",
    "build_classifier",
    "build_model",
    "classification_loss",
    "evaluate_method",
    "fit",
    "method_config",
    "predict_logits",
    "train",
    "train_from_file",
]
