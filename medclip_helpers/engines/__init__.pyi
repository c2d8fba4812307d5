from .precision import PRECISIONS, choose_precision, reduced_precision

__all__ = ["PRECISIONS", "choose_precision", "reduced_precision"]
