"""Tables, and the model card: words from the domain's card.md, numbers from manifests."""
