"""`python -m imagescope` is the command `imagescope`."""

from imagescope.cli import main

if __name__ == "__main__":
    main()
