"""The HTTP face: Tornado RequestHandlers that parse, call the registry and render.

Nothing here looks inside the registry or knows a store or the settings.
"""
