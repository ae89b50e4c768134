"""Metadata lives in pyproject.toml; only configs/ is said here, which becomes imagescope/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["imagescope", "imagescope.*"]), "imagescope.configs"],
    package_dir={"imagescope.configs": "configs"},
)
