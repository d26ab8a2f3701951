"""The deployment file: read, checked with line numbers, described by a JSON Schema."""

from shadow_mlops.deployment.reader import load_deployment, parse_deployment
from shadow_mlops.deployment.schema import deployment_schema

__all__ = ["deployment_schema", "load_deployment", "parse_deployment"]
