"""Entry point of `python -m forge_otel.cli`."""

import sys

from forge_otel.cli import main

if __name__ == "__main__":
    sys.exit(main())
