"""Metrics, logs, traces and the heartbeat, and the redaction of secrets."""
