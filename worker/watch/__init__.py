"""Logs, metrics, health: what the worker tells about itself."""
