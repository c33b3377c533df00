"""Compare B2COPY's accounts with the identity map: what is missing there, missing here, or different.

page, page, ... ──> candidates ──> each confirmed ──> differences ──> apply, if a person says so
steps.py            ledger/reconciliation.py          steps.py        tasks/apply_reconciliation.py
"""
