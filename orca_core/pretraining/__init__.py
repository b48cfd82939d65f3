"""Pretraining of the mini bodies."""
