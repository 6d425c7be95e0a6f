"""Others' files to our sample record, one format a module; ``read`` finds out which."""

from data_pipelines.readers.checks import BadLine
from data_pipelines.readers.reading import FORMATS, read

__all__ = ["FORMATS", "BadLine", "read"]
