"""How it is recorded: hooks and reducers. Nothing here draws or thresholds."""
