"""Answers from the result tables: tables in, tables out."""
