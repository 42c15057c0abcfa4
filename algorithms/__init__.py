"""Meta-learners: one file is one method, and its name is the file's."""
