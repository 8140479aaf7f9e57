"""Local differential privacy of pictures: each hospital releases noised pictures once; all training comes after."""
