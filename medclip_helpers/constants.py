"""Names and numbers that the published MedCLIP fixes."""

from __future__ import annotations

# The 14 observations of CheXpert (Irvin et al., AAAI 2019, Table 1), in the order of its CSV files.
# Every label vector in this package has this order.
CHEXPERT_LABELS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
# The five that CheXpert's competition, and so CheXpert-5x200, evaluates.
CHEXPERT_COMPETITION: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
)
# Grey-level mean and standard deviation of the published model's training images, scaled to [0, 1].
IMAGE_MEAN = 0.5862785803043838
IMAGE_STD = 0.27950088968644304
IMAGE_SIZE = 224  # pixels a side
# Longest text, in word pieces with [CLS] and [SEP], that the published model was trained on.
MAX_TEXT_TOKENS = 77
VOCABULARY_SIZE = 28996  # word pieces of Bio_ClinicalBERT
# What a model's weights are, shown with their output; see `MedCLIPModel.note`.
UNTRAINED_NOTE = "Untrained weights: results have no meaning."
PUBLISHED_NOTE = "Published MedCLIP weights: for research use only."
PUBLISHED_FORMAT_NOTE = "Weights in MedCLIP's published format: for research use only."
TRAINED_NOTE = "Custom-trained weights: for research use only."
