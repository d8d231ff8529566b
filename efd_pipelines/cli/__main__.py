"""`python -m efd_pipelines.cli`: the same as `efd`, for processes that start it with their own interpreter."""

import sys

from efd_pipelines.cli import main

sys.exit(main())
