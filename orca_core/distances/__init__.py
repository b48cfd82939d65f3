"""Distances between labelled feature clouds."""
