"""What every step uses and none of them is: errors, paths, files, hashing, manifests, stages."""
