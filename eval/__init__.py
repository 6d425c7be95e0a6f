"""The evaluation harness: suites, metrics, a resumable runner, reports."""
