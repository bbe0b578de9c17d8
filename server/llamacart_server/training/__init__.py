"""Cartridges that the server has made: jobs in processes of their own."""
