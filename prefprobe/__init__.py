"""Does this model represent what it likes? Preferences, activations, probes, and the evidence, step by step."""

__version__ = "0.1.0"
