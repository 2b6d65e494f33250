"""What sinks and massive activations do: change them in a running model, and measure."""
