"""Plans: the kinds of protection, their noise, what each costs and what each promises, in words."""
