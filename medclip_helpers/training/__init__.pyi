from .config import TrainingConfig
from .fine_tuning import LEARNING_RATES, build_classifier, evaluate_method, fit, predict_logits
from .heads import PromptTuningClassifier, SuperviseClassifier, classification_loss
from .pretraining import TrainingResult, build_model, preserved_random_state, train
from .run_file import train_from_file
from .trainer import TrainingStopped

__all__ = [
    "LEARNING_RATES",
    "PromptTuningClassifier",
    "SuperviseClassifier",
    "TrainingConfig",
    "TrainingResult",
    "TrainingStopped",
    "build_classifier",
    "build_model",
    "classification_loss",
    "evaluate_method",
    "fit",
    "predict_logits",
    "preserved_random_state",
    "train",
    "train_from_file",
]
