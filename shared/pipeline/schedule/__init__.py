"""Many domains at once: what there is to do (units), and who does it (cluster)."""
