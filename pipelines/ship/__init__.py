"""From a finished student to its users: export, model card, model registry, predictions."""
