"""The revisions of our tables, in the order of their file names."""
