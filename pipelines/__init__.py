"""The stream: from fragments to utterances, and from results to the store. No Ray, no torch, no FastAPI."""
