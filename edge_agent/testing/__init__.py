"""Stand-ins and conformance checks that tests, and authors of plug-ins, can run."""
