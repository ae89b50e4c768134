"""`python -m imagescope` is the command `imagescope`."""

import sys

from imagescope.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
