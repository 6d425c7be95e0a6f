"""Others' files to our sample record, one format a module."""
