"""What answers look like: tables, lanes, KTAP, JSON, splats. Text in, text out; nothing here runs a case."""
