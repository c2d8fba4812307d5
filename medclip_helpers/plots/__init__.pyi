from .evaluation import plot_intervals, plot_lines, plot_reliability
from .heat_maps import plot_confusion, plot_similarity_matrix, plot_targets
from .similarities import (
    FINDING_SENTENCES,
    explain_similarity,
    plot_class_scores,
    plot_explanation,
    plot_similarities,
    plot_similarity_map,
    visualize_image_text_similarity,
)
from .style import COLORS, NotebookFigure, figure_png, finding_colors, new_figure, tidy
from .training import plot_embedding_map, plot_gallery, plot_training_curve

__all__ = [
    "COLORS",
    "FINDING_SENTENCES",
    "NotebookFigure",
    "explain_similarity",
    "figure_png",
    "finding_colors",
    "new_figure",
    "plot_class_scores",
    "plot_confusion",
    "plot_embedding_map",
    "plot_explanation",
    "plot_gallery",
    "plot_intervals",
    "plot_lines",
    "plot_reliability",
    "plot_similarities",
    "plot_similarity_map",
    "plot_similarity_matrix",
    "plot_targets",
    "plot_training_curve",
    "tidy",
    "visualize_image_text_similarity",
]
