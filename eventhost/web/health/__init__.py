"""How the host fares, gathered and judged for whoever asks."""
