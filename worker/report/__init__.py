"""Reports for people and programs about operations, the session and health: sentences and documents, no terminal."""
