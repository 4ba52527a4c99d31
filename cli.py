"""`python cli.py …` from a checkout: the same as `featcache …`."""

from featcache.cli import main

if __name__ == "__main__":
    main()
