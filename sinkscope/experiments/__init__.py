"""Recipes that make what is bundled or claimed, one command each."""
