"""The rows of the table of multimodal families, a file for each kin of models."""
