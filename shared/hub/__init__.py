"""The Hugging Face Hub: a release goes up as one commit, a rung's weights come down pinned."""
