"""Fine-tune tool-calling models on rented GPUs, with the spend known before and bounded while it runs."""

__version__ = "0.1.0"
