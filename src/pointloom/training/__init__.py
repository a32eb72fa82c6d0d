"""Training: recipes, losses, batches and the loop."""
