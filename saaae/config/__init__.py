"""Configuration: schema, validation, overrides, resolvers; imports no torch."""
