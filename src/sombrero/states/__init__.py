"""Hidden states: collected with hooks, stored as safetensors shards."""

from sombrero.states.collect import batches_by_length, collect_states, pad_right
from sombrero.states.store import load_states, save_states, shard_path

__all__ = ["batches_by_length", "collect_states", "load_states", "pad_right", "save_states", "shard_path"]
