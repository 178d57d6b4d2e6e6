"""Hidden states: collected with hooks, stored as safetensors shards."""

from sombrero.states.collect import collect_states
from sombrero.states.store import load_states, save_states, shard_path

__all__ = ["collect_states", "load_states", "save_states", "shard_path"]
