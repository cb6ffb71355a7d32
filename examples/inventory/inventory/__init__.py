"""A stock that several branches sell from, each by a web service that works offline."""
