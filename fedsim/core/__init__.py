"""Values and vocabulary shared by every layer: adapters, messages, rows, seeds, errors, the registry."""
