"""Sombrero: map how a language model refuses, edit it along the map, bake the edit, measure what it did."""

__version__ = "0.1.0"
