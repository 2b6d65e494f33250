"""Multimodal models of transformers: audio, images and video in, one sequence of tokens inside."""
