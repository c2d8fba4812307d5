from .classifier import PromptClassifier, classify_images
from .demo import draw_phantom
from .explorer import SimilarityExplorer
from .loading import load_medclip
from .losses import (
    ImageTextContrastiveLoss,
    info_nce_loss,
    label_similarity,
    semantic_contrastive_loss,
    semantic_matching_loss,
)
from .model import (
    MedCLIPModel,
    MedCLIPOutput,
    MedCLIPTextModel,
    MedCLIPVisionEncoder,
    MedCLIPVisionModel,
    MedCLIPVisionModelViT,
)
from .plots import explain_similarity, visualize_image_text_similarity
from .processor import MedCLIPProcessor
from .radiographs import find_radiographs, read_radiograph
from .similarity import similarity_map
from .training import ImageSuperviseLoss, PromptTuningClassifier, SuperviseClassifier

__version__: str

__all__ = [
    "ImageSuperviseLoss",
    "ImageTextContrastiveLoss",
    "MedCLIPModel",
    "MedCLIPOutput",
    "MedCLIPProcessor",
    "MedCLIPTextModel",
    "MedCLIPVisionEncoder",
    "MedCLIPVisionModel",
    "MedCLIPVisionModelViT",
    "PromptClassifier",
    "PromptTuningClassifier",
    "SimilarityExplorer",
    "SuperviseClassifier",
    "classify_images",
    "draw_phantom",
    "explain_similarity",
    "find_radiographs",
    "info_nce_loss",
    "label_similarity",
    "load_medclip",
    "read_radiograph",
    "semantic_contrastive_loss",
    "semantic_matching_loss",
    "similarity_map",
    "visualize_image_text_similarity",
]
