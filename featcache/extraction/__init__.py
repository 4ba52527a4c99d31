"""Stage one: images through a frozen base into a cache."""
