"""What users of the library need to test their own services with it: contract suites, a clock, faults on the wire."""
