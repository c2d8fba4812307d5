"""MedCLIP for today's Colab: model, loss, plots and a demo world. For research use only."""

__version__ = "0.1.0"
