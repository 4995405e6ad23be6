"""The rows that get stored: frozen pydantic models, written as JSON and checked when they are read back."""
