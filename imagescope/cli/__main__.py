"""python -m imagescope.cli"""

import sys

from imagescope.cli.app import main

sys.exit(main())
