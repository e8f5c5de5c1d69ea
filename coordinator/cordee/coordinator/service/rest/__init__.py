"""REST for people and the command line. `models` is what travels; `app` is the FastAPI application, imported late: it is heavy."""
