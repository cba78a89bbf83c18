"""What the scenario tests and the benchmarks stand on: a real upstream, a lying one, the program
under test, and clients.  Standard library only."""
