"""A new room must be given its place (exhaustive)."""


