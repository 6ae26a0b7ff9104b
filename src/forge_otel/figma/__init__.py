"""L0: a client of the Figma REST API with a response cache, and the receiver of Figma's webhooks.

What a generation reads of a design is decided by the application; here is nothing about prompts or components.
"""
