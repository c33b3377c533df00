"""B2COPY's documented routes, one file a page of documentation."""
