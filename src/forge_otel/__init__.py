"""One line turns a FastAPI/Starlette service that runs generative-AI pipelines into a production service."""
