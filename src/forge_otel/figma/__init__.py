"""L0: a client of the Figma REST API whose answers are kept, and the receiver of Figma's webhooks."""
