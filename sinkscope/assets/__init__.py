"""What ships with the package: small checkpoints and clips, each with its origin."""
