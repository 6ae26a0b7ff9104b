"""A service with one agent, for tests of the export at exit."""

from fastapi import FastAPI

from forge_otel import ForgeMiddleware, agent

app = FastAPI()
app.add_middleware(ForgeMiddleware)


@agent
async def writer() -> str:
    """Return a text."""
    return "done"


@app.get("/work")
async def work() -> str:
    """Run the agent."""
    return await writer()
