"""What operators ask and order: JSON routes behind the gateway, in a process of their own."""

from shadow_mlops.console.app import Answer, Console

__all__ = ["Answer", "Console"]
