"""The HTTP edge: OpenAI's chat completions, and what an operator asks of a service."""

from services.api.app import build
from services.api.limits import Limits

__all__ = ["Limits", "build"]
