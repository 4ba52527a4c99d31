"""`python -m featcache …`: the same as `featcache …`."""

import os
import sys

if __name__ == "__main__":
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    if not sys.flags.safe_path and sys.path[0] != home:
        del sys.path[0]  # the current folder, which Python puts there: a `queue.py` of the user's must not run
    from featcache.cli import main

    main()
