"""The domain is the lowest layer."""

from shadow_mlops.eventlog.seam import Frame
