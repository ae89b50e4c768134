"""A run from its configuration to its folder, and what is made of run folders."""
