"""The five agents, one module each; `componentforge.pipeline` runs them."""
