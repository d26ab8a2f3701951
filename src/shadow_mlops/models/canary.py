"""The canary step as the registry keeps it: a tag of the registered model, beside the aliases that it belongs to."""

from __future__ import annotations

import msgspec
import structlog

log = structlog.get_logger()

CANARY_TAG = "shadow.canary"


class CanaryTag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of the tag, as JSON."""

    challenger: str
    """Role: ``challenger``, ``challenger-NAME``."""
    number: str
    """Registry number that the role named when the canary began: with another one there is no canary."""
    share: float
    step: int
    rollout: str
    """Which rollout it is."""
    since_us: int
    """When the step began, microseconds since 1970."""
    frozen: bool = False
    """True: the share stays as it is until somebody says otherwise; harm still ends it."""


def encode_canary(tag: CanaryTag) -> str:
    """The tag's text."""
    return msgspec.json.encode(tag).decode()


def decode_canary(text: str | None) -> CanaryTag | None:
    """What the tag says; None where there is none, or none that can be read (told in the log)."""
    if not text:
        return None
    try:
        tag = msgspec.json.decode(text, type=CanaryTag)
    except msgspec.DecodeError as error:
        log.error("the registry's canary tag cannot be read, there is no canary", tag=CANARY_TAG, problem=str(error))
        return None
    if not 0 < tag.share <= 1:
        log.error("the registry's canary tag has no share in (0, 1], there is no canary", share=tag.share)
        return None
    return tag
