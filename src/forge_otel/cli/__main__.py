"""``python -m forge_otel.cli``."""

import sys

from forge_otel.cli import main

sys.exit(main())
