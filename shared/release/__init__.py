"""What a release is, the gates it must pass, its card, its folder, its signature."""
