"""A package for a Zope of the tests: pages with blobs, written and read over HTTP."""

from setuptools import setup

setup(name="blobpages", version="1.0", package_dir={"": "src"}, py_modules=["blobpages"], install_requires=["Zope"])
