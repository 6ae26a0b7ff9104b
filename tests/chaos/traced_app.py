"""A service with one agent, for the tests of how traces survive its end."""

from fastapi import FastAPI

from forge_otel import ForgeMiddleware, agent

app = FastAPI()
app.add_middleware(ForgeMiddleware)


@agent
async def writer() -> str:
    """Write."""
    return "done"


@app.get("/work")
async def work() -> str:
    """Have something written."""
    return await writer()
