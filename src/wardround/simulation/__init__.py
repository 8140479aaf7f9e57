"""A federation in one process: one data set dealt out to hospitals, all of them and the coordinator side by side."""
