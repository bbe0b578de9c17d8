"""Grammars of the JSON texts that a schema allows, compiled by llguidance."""
