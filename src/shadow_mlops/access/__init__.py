"""Who may do what."""

from shadow_mlops.access.tokens import check, operator_token, token_file

__all__ = ["check", "operator_token", "token_file"]
