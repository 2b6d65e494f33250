"""Training: the decorrelation loss for any model, a trainer, and what watches a run."""
