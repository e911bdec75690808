"""What a federated meta-learning client does, and the words that server and client share."""

__version__ = "0.1.0"
