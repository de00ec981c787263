"""Synthetic models and images whose right answer is known."""
