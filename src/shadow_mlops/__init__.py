"""Shadow MLOps: shadow deployment and drift detection for ML models."""

from importlib.metadata import version

__version__ = version("shadow-mlops")

__all__ = ["__version__"]
