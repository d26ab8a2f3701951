"""The request path does not pass through training."""

from shadow_mlops import training
