"""Your own pictures: an index of a folder, and searching it by text, picture and dialogue."""
