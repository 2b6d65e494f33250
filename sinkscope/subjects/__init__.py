"""What is studied: adapters for models, and the only room that knows an architecture."""
