"""ComponentForge: an example service whose five agents turn Figma designs into React components."""
