"""The service for `uvicorn tests.chaos.deployed:app`; its plan is in the variable `CHAOS_PLAN`."""

import json
import os

from tests.chaos.service import Plan, build

__all__ = ["app"]

app = build(Plan(**json.loads(os.environ["CHAOS_PLAN"])))
