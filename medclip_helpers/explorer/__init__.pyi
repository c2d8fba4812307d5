from .page import SimilarityExplorer

__all__ = [
    "SimilarityExplorer",
]
