"""L0: a client of the Figma REST API with a response cache, and the receiver of Figma's webhooks.

Not in here: the choice of the design data that goes into a generation, which is the application's.
"""
