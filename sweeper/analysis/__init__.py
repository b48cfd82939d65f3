"""Tables in, tables out: what the results of a sweep say. Neither Ray nor torch is needed."""
