"""Who may do what."""

from shadow_mlops.access.documented import with_rules
from shadow_mlops.access.headers import DATA_HEADERS, SECURITY_HEADERS, page_policy
from shadow_mlops.access.keyring import Caller, Keyring
from shadow_mlops.access.keys import Key, add_key, keys_file, read_keys, revoke_key
from shadow_mlops.access.rules import ALLOWED, CLOSER, RULES, May, Role, named, require_rules
from shadow_mlops.access.tokens import operator_token, token_file

__all__ = [
    "ALLOWED",
    "CLOSER",
    "DATA_HEADERS",
    "RULES",
    "SECURITY_HEADERS",
    "Caller",
    "Key",
    "Keyring",
    "May",
    "Role",
    "add_key",
    "keys_file",
    "named",
    "operator_token",
    "page_policy",
    "read_keys",
    "require_rules",
    "revoke_key",
    "token_file",
    "with_rules",
]
