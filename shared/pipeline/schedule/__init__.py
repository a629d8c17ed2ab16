"""Many domains at once: what there is to do (units), on this machine (local), on several (cluster)."""
