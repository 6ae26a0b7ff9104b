"""The five agents, each in its own module; `componentforge.pipeline` runs them."""
