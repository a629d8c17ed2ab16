"""From an answer to figures with their intervals."""
