from .compiled import CompiledEncoder, NeedsTorch
from .engine import ENGINES, choose_engine, compile_encoder, is_faster
from .export import FORMATS, Encoder, export_onnx, write_export
from .precision import PRECISIONS, attention_of_any_length, choose_precision, reduced_precision

__all__ = [
    "CompiledEncoder",
    "ENGINES",
    "Encoder",
    "FORMATS",
    "NeedsTorch",
    "PRECISIONS",
    "attention_of_any_length",
    "choose_engine",
    "choose_precision",
    "compile_encoder",
    "export_onnx",
    "is_faster",
    "reduced_precision",
    "write_export",
]
