"""The data plane: answer from the champion, append one event, count."""

from shadow_mlops.gateway.app import Gateway, Limits

__all__ = ["Gateway", "Limits"]
