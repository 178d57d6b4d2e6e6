"""Base and edited model side by side. What is said stays in memory; only ``/save`` writes, and where it is told."""

from sombrero.chat.commands import obey
from sombrero.chat.models import ChatModels, open_chat
from sombrero.chat.terminal import talk

__all__ = ["ChatModels", "obey", "open_chat", "talk"]
