"""Where changes are kept. A store knows neither the registry nor HTTP."""
