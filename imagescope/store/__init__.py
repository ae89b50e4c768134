"""What was computed once, kept under what determines it: responses, vectors, image hashes."""
