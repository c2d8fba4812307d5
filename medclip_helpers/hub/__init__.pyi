from .download import DownloadError
from .files import locked_folder, read_settings, whole_file, write_text
from .filling import REPLACED_NOTES, fill_weights
from .formats import FORMAT, check_format
from .hashing import describe_weights, fingerprint
from .published import PUBLISHED, cache_folder, fetch_example, fetch_weights, load_tokenizer
from .weights import Checkpoint, read_checkpoint, read_state_dict, write_safetensors
from .wheel import published_constants

__all__ = [
    "Checkpoint",
    "DownloadError",
    "FORMAT",
    "PUBLISHED",
    "REPLACED_NOTES",
    "cache_folder",
    "check_format",
    "describe_weights",
    "fetch_example",
    "fetch_weights",
    "fill_weights",
    "fingerprint",
    "load_tokenizer",
    "locked_folder",
    "published_constants",
    "read_checkpoint",
    "read_settings",
    "read_state_dict",
    "whole_file",
    "write_safetensors",
    "write_text",
]
