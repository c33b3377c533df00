"""Celery messages in and out.

in:     consumer (what cannot become a task) and inbox (a task per kind) ──> ledger
out:    wake_up ("this lane has work") ──> b2copy.push; dispatch_timer repeats it from every worker
reads:  ask_read ──> b2copy.read ──> read_answers, sealed by sealed_answer
all:    broker_transport is kombu's Redis transport with our changes
"""
