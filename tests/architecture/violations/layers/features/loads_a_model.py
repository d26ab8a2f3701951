"""A feature store that looks into the models beside it."""

from shadow_mlops.models.loading import load_model

__all__ = ["load_model"]
