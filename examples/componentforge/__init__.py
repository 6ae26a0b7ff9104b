"""ComponentForge: Figma designs into React components by five agents, run as a production service by forge-otel."""
