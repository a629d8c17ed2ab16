"""One prompt: the chat template that ships, and the proof that every runtime reads it alike."""
