"""Prompt sets: load them, prove them disjoint, render them with a chat template; and the starter sets we wrote."""

from sombrero.prompts.check import check_disjoint, normalised
from sombrero.prompts.load import StarterName, load_prompts, starter_prompts
from sombrero.prompts.render import Rendering, SystemRole, render, render_conversation

__all__ = [
    "Rendering",
    "StarterName",
    "SystemRole",
    "check_disjoint",
    "load_prompts",
    "normalised",
    "render",
    "render_conversation",
    "starter_prompts",
]
