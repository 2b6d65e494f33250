"""The audio-visual LLMs of the papers, usable without any probe."""
