from .augmentation import TextAugmentation, image_augmentation
from .authors import describe_test, never_seen
from .catalogue import DATASETS, DataSet
from .collator import MedCLIPCollator
from .datasets import AuthorsDataset, LabelledImages, PairedDataset, UnpairedDataset
from .drawings import draw_images, draw_studies, true_classes, write_reports, write_sentences
from .labeller import SentenceLabeller, label_sentences
from .labels import (
    ABSENT,
    LABELS,
    PRESENT,
    UNCERTAIN,
    combine_labels,
    encode_labels,
)
from .manifests import OpenI, build_manifest, manifest_counts, read_openi
from .sentences import label_manifest, split_report
from .small_copies import cache_images
from .tables import check_manifest, class_numbers, is_exclusive, read_manifest, read_sentences

__all__ = [
    "ABSENT",
    "AuthorsDataset",
    "DATASETS",
    "DataSet",
    "LABELS",
    "LabelledImages",
    "MedCLIPCollator",
    "OpenI",
    "PRESENT",
    "PairedDataset",
    "SentenceLabeller",
    "TextAugmentation",
    "UNCERTAIN",
    "UnpairedDataset",
    "build_manifest",
    "cache_images",
    "check_manifest",
    "class_numbers",
    "combine_labels",
    "describe_test",
    "draw_images",
    "draw_studies",
    "encode_labels",
    "image_augmentation",
    "is_exclusive",
    "label_manifest",
    "label_sentences",
    "manifest_counts",
    "never_seen",
    "read_manifest",
    "read_openi",
    "read_sentences",
    "split_report",
    "true_classes",
    "write_reports",
    "write_sentences",
]
