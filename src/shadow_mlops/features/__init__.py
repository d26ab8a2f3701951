"""What a feature store has of an entity: read now, for a request, or as it was at a time, for training."""
