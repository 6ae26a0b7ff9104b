"""The service as an import string, `uvicorn tests.chaos.deployed:app`; its plan is in the environment."""

import json
import os

from tests.chaos.service import Plan, build

__all__ = ["app"]

app = build(Plan(**json.loads(os.environ["CHAOS_PLAN"])))
