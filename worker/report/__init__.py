"""What people and programs are told about operations, the session and health: sentences and documents, no terminal."""
