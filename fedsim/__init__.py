"""fedsim: federated fine-tuning of language models across banks, simulated."""

__version__ = "0.1.0"
