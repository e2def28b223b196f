"""Learning by imitation: examples of text, laid out in rows, scored and descended on."""
