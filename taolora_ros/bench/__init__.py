"""Measurements of what the node costs: each side a process of its own, talking over DDS."""
