"""A live page of a run folder, on this machine alone. It reads the folder and changes nothing in it."""

from sombrero.watch.server import watch
from sombrero.watch.snapshot import Snapshots

__all__ = ["Snapshots", "watch"]
