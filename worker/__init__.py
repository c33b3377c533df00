"""How the sync worker runs, and how it talks to B2COPY."""
