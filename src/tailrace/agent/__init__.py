"""A turn of a conversation with a language model, as a run."""
