"""The tests are a package, so that a story can say `from tests.site import Site`."""
