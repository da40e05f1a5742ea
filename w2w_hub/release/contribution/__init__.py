"""Contributions to a published dataset: batches of rows that strangers offer in pull requests."""
