"""A few coordinates of a hospital's update, chosen and noised."""
