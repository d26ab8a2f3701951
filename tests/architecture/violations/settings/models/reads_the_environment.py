"""Settings are read in one place."""

from pydantic_settings import BaseSettings
