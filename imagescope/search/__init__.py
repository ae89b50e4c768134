"""Scores of images, one exact pass that ranks by them, and rankings made of rankings."""
