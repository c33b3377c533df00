"""The operations console: web pages for operators, on-call engineers and compliance officers.

A process of its own with two database connections. It reads through `worker.report` and bounded lists of the ledger,
and acts through the functions that the command line calls. No JavaScript is needed; with it, pages refresh themselves.
"""
