"""What it does: changes to a model's input or inside it, and what follows from them."""
