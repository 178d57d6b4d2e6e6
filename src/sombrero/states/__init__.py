"""Hidden states: collected with hooks, stored as safetensors shards, or drawn with a planted refusal."""

from sombrero.states.collect import collect_states
from sombrero.states.store import load_states, save_states, shard_path
from sombrero.states.synthetic import PlantedStates, plant_states

__all__ = ["PlantedStates", "collect_states", "load_states", "plant_states", "save_states", "shard_path"]
