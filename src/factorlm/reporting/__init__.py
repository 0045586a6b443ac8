"""Reporting: tables for the terminal and for papers."""
