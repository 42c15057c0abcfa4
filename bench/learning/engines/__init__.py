"""Ways to compute one and the same meta-gradient: vectorised over tasks, or task by task with learn2learn."""
