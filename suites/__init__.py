"""Task distributions: one file is one suite, and its name is the file's."""
