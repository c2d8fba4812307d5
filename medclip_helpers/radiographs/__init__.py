"""Pictures as hospitals have them: PNG, JPEG, TIFF, WebP, BMP, DICOM, arrays, tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
