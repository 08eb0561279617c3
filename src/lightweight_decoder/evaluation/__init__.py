"""Metrics, report and plots."""
